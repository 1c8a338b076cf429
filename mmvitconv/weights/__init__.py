"""Reading checkpoints safely, and the original authors' layouts turned into ours.

Names are imported when they are first used, so that the index of published weights can be read
without PyTorch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmvitconv.weights.convert import convert_state_dict, list_layouts
    from mmvitconv.weights.files import load_file
    from mmvitconv.weights.match import adapt_checkpoint, check_match, check_values, load_backbone

__all__ = [
    "adapt_checkpoint",
    "check_match",
    "check_values",
    "convert_state_dict",
    "list_layouts",
    "load_backbone",
    "load_file",
]

_MODULES = {"convert_state_dict": "convert", "list_layouts": "convert", "load_file": "files"}


def __getattr__(name: str) -> Any:
    """Import what is public from its module."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'match')}"), name)
