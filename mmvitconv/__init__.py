"""mmvitconv: backbones between ConvNets and vision Transformers for PyTorch and OpenMMLab.

Importing the package is cheap (no torch, no mm* package): it only makes sure that ``mmcv.ops``
can be imported without mmcv's compiled operators, see :mod:`mmvitconv.compat`. Models by name are
imported when they are first asked for, see :mod:`mmvitconv.models.factory`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mmvitconv.compat import provide_operators
from mmvitconv.version import __version__

if TYPE_CHECKING:
    from mmvitconv.models.factory import create_model, create_transform, list_models

__all__ = ["__version__", "create_model", "create_transform", "list_models"]

provide_operators()


def __getattr__(name: str) -> Any:
    """Import what is public from its module."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("mmvitconv.models.factory"), name)
