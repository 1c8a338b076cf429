"""The original ParC-MobileNetV2 layout, classification or downstream -> ours.

See docs/specs/parc.md#5-state-dict.

=====================================  ==========================================
original                               ours
=====================================  ==========================================
features.{i}.pw_expand.{0,1}.*         backbone.features.{i}.conv.0.{0,1}.*
features.{i}.gcc_{H,W}.gcc_conv.*      backbone.features.{i}.conv.1.0.{height,width}.*
features.{i}.gcc_{H,W}.pe              ...{height,width}.position_embedding
features.{i}.bn.*                      backbone.features.{i}.conv.1.1.*
features.{i}.pw_linear.{0,1}.*         backbone.features.{i}.conv.{2,3}.*
classifier.1.*                         head.fc.*
torchvision's other keys               backbone.*
=====================================  ==========================================
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from mmvitconv.weights.families.names import (
    LAYER,
    NORM,
    add_head,
    count,
    has,
    pair_names,
    refuse_without_parc,
    rename,
    same,
)

_PARC_KEY = re.compile(r"features\.\d+\.gcc_[HW]\.")
_WEIGHT = LAYER[:1]


def is_original(keys: Iterable[str]) -> bool:
    """Whether the keys are the original ParC-MobileNetV2's; torchvision's MobileNetV2 is not."""
    return any(map(_PARC_KEY.match, keys))


def convert(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an original state dict."""
    keys = list(state_dict)
    refuse_without_parc(keys, _PARC_KEY, "ParC-MobileNetV2", "gcc_{H,W}")
    last = count(keys, r"features\.(\d+)\.(conv|pw_expand|gcc_[HW]|bn|pw_linear)\.")
    names = {}
    for i in range(last + 1):
        theirs = f"features.{i}"
        block = _block_names(theirs, keys) if 0 < i < last else _conv_norm("0", "1")
        names |= {f"{theirs}.{k}": f"backbone.{theirs}.{v}" for k, v in block.items()}
    add_head(names, keys, "classifier", "classifier.1")
    return rename(state_dict, names, "ParC-MobileNetV2")


def _block_names(block: str, keys: list[str]) -> dict[str, str]:
    if block == "features.1":  # not expanded
        return _conv_norm("conv.0.0", "conv.0.1") | _conv_norm("conv.1", "conv.2")
    if not has(keys, f"{block}.gcc_", f"{block}.pw_", f"{block}.bn."):
        names = _conv_norm("conv.0.0", "conv.0.1") | _conv_norm("conv.1.0", "conv.1.1")
        return names | _conv_norm("conv.2", "conv.3")
    # not every ParC block has position embeddings, only the first one of a width
    embedded = any(re.match(rf"{re.escape(block)}\.gcc_[HW]\.pe$", key) for key in keys)
    return {
        **same("pw_expand.0", "conv.0.0", _WEIGHT),
        **same("pw_expand.1", "conv.0.1", NORM),
        **pair_names("gcc_", "conv.1.0", embedded),
        **same("bn", "conv.1.1", NORM),
        **same("pw_linear.0", "conv.2", _WEIGHT),
        **same("pw_linear.1", "conv.3", NORM),
    }


def _conv_norm(conv: str, norm: str) -> dict[str, str]:
    return same(conv, conv, _WEIGHT) | same(norm, norm, NORM)
