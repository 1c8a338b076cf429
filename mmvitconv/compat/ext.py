"""Stand-in for ``mmcv._ext``: mmcv's compiled operators on torchvision's operators and torch.

Python loads this file under the name ``mmcv._ext`` when mmcv has no compiled module (see
:mod:`mmvitconv.compat`). ``__all__`` are the operators that it offers
(:mod:`mmvitconv.compat.operators`).

An operator without a stand-in can be looked up (``mmcv.ops`` needs that to be imported) but not
called: it raises :class:`mmvitconv.compat.MissingOperatorError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from mmvitconv.compat import MissingOperatorError
from mmvitconv.compat.operators.boxes import bbox_overlaps, nms, nms_match, softnms
from mmvitconv.compat.operators.deform import (
    deform_conv_backward_input,
    deform_conv_backward_parameters,
    deform_conv_forward,
    modulated_deform_conv_backward,
    modulated_deform_conv_forward,
    ms_deform_attn_backward,
    ms_deform_attn_forward,
)
from mmvitconv.compat.operators.losses import (
    sigmoid_focal_loss_backward,
    sigmoid_focal_loss_forward,
    softmax_focal_loss_backward,
    softmax_focal_loss_forward,
)
from mmvitconv.compat.operators.rearranged import (
    carafe_backward,
    carafe_forward,
    carafe_naive_backward,
    carafe_naive_forward,
    masked_col2im_forward,
    masked_im2col_forward,
    psamask_backward,
    psamask_forward,
)
from mmvitconv.compat.operators.roi import (
    roi_align_backward,
    roi_align_forward,
    roi_pool_backward,
    roi_pool_forward,
)
from mmvitconv.compat.operators.rotated import box_iou_rotated, nms_rotated
from mmvitconv.compat.operators.sampled_roi import (
    deform_roi_pool_backward,
    deform_roi_pool_forward,
    roi_align_rotated_backward,
    roi_align_rotated_forward,
)

__all__ = [
    "bbox_overlaps",
    "box_iou_rotated",
    "carafe_backward",
    "carafe_forward",
    "carafe_naive_backward",
    "carafe_naive_forward",
    "deform_conv_backward_input",
    "deform_conv_backward_parameters",
    "deform_conv_forward",
    "deform_roi_pool_backward",
    "deform_roi_pool_forward",
    "get_compiler_version",
    "get_compiling_cuda_version",
    "masked_col2im_forward",
    "masked_im2col_forward",
    "modulated_deform_conv_backward",
    "modulated_deform_conv_forward",
    "ms_deform_attn_backward",
    "ms_deform_attn_forward",
    "nms",
    "nms_match",
    "nms_rotated",
    "psamask_backward",
    "psamask_forward",
    "roi_align_backward",
    "roi_align_forward",
    "roi_align_rotated_backward",
    "roi_align_rotated_forward",
    "roi_pool_backward",
    "roi_pool_forward",
    "sigmoid_focal_loss_backward",
    "sigmoid_focal_loss_forward",
    "softmax_focal_loss_backward",
    "softmax_focal_loss_forward",
    "softnms",
]


def __getattr__(name: str) -> Callable[..., NoReturn]:
    """Give any operator without a stand-in a function that says so when it is called."""
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def missing_operator(*args: object, **kwargs: object) -> NoReturn:
        raise MissingOperatorError(name)

    missing_operator.__name__ = missing_operator.__qualname__ = name
    return missing_operator


def get_compiler_version() -> str:
    """Answer mmcv's question for the compiler; mmcv prints it in every log."""
    return "none (operators by mmvitconv on torchvision)"


get_compiling_cuda_version = get_compiler_version
