"""The original ParC-ResNet layout, classification or downstream -> ours.

See docs/specs/parc.md#5-state-dict.

=====================================  ==========================================
original                               ours
=====================================  ==========================================
layer{l}.{i}.parc_{H,W}.gcc_conv.*     backbone.layer{l}.{i}.conv2.{height,width}.*
layer{l}.{i}.parc_{H,W}.pe             ...{height,width}.position_embedding
fc.*                                   head.fc.*
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

_PARC_KEY = re.compile(r"layer\d\.\d+\.parc_[HW]\.")


def is_original(keys: Iterable[str]) -> bool:
    """Whether the keys are in the original ParC-ResNet layout; torchvision's ResNet is not."""
    return any(map(_PARC_KEY.match, keys))


def convert(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an original state dict."""
    keys = list(state_dict)
    refuse_without_parc(keys, _PARC_KEY, "ParC-ResNet", "parc_{H,W}")
    embedded = any(key.endswith(".pe") for key in keys)
    names = {"conv1.weight": "backbone.conv1.weight"} | same("bn1", "backbone.bn1", NORM)
    for stage in range(1, 5):
        for i in range(count(keys, rf"layer{stage}\.(\d+)\.")):
            theirs = f"layer{stage}.{i}"
            ours = f"backbone.{theirs}"
            for part in ("conv1", "conv2", "conv3"):
                names |= same(f"{theirs}.{part}", f"{ours}.{part}", LAYER[:1])
            if has(keys, f"{theirs}.parc_"):
                del names[f"{theirs}.conv2.weight"]
                names |= pair_names(f"{theirs}.parc_", f"{ours}.conv2", embedded)
            for part in ("bn1", "bn2", "bn3"):
                names |= same(f"{theirs}.{part}", f"{ours}.{part}", NORM)
            if i == 0:
                names |= same(f"{theirs}.downsample.0", f"{ours}.downsample.0", LAYER[:1])
                names |= same(f"{theirs}.downsample.1", f"{ours}.downsample.1", NORM)
    add_head(names, keys, "fc")
    return rename(state_dict, names, "ParC-ResNet")
