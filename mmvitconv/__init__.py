"""mmvitconv: backbones between ConvNets and vision Transformers for OpenMMLab.

Importing the package is cheap (no torch, no mm* package): it only makes sure that ``mmcv.ops``
can be imported without mmcv's compiled operators, see :mod:`mmvitconv.compat`.
"""

from mmvitconv.compat import provide_operators
from mmvitconv.version import __version__

__all__ = ["__version__"]

provide_operators()
