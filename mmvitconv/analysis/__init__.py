"""What is done with a model: pictures of what it looks at, and the benchmark."""

import warnings
from typing import Any


def __getattr__(name: str) -> Any:
    if name in ("Complexity", "Macs", "count_complexity"):
        from mmvitconv.zoo import costs

        warnings.warn(
            f"mmvitconv.analysis.{name} moved to mmvitconv.zoo.costs.{name}",
            DeprecationWarning,
            stacklevel=2,
        )
        return getattr(costs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
