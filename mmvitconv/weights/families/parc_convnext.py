"""The two original ParC-ConvNeXt layouts (docs/specs/parc.md#5-state-dict, #10-details) -> ours.

=========================================  ============================================
original                                   ours
=========================================  ============================================
stages.{s}.{i}.dwconv.*                    backbone.stages.{s}.{i}.mixer.*
stages.{s}.{i}.gcc_{H,W}.gcc_conv.*        backbone.stages.{s}.{i}.mixer.{height,width}.*
stages.{s}.{i}.gcc_{H,W}.pe                ...{height,width}.position_embedding
...gcc_conv_{1H,2W}.* (downstream)         ...{height,width}.*
...gcc_conv_{1H,2W}.meta_pe (downstream)   ...{height,width}.position_embedding
norm{s}.* (downstream)                     backbone.norm{s}.*
norm.* (classification)                    backbone.norm3.*
head.*                                     head.fc.*
all others                                 backbone.*
=========================================  ============================================
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from mmvitconv.weights.families.names import (
    LAYER,
    add_head,
    count,
    has,
    output_norms,
    pair_names,
    refuse_without_parc,
    rename,
    same,
)

_PARC_KEY = re.compile(r"stages\.\d\.\d+\.(gcc_[HW]|gcc_conv_(1H|2W))\.")


def is_original(keys: Iterable[str]) -> bool:
    """Whether the keys are in an original ParC-ConvNeXt layout; a plain ConvNeXt's are not."""
    return any(map(_PARC_KEY.match, keys))


def convert(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an original state dict, classification or downstream."""
    keys = list(state_dict)
    refuse_without_parc(keys, _PARC_KEY, "ParC-ConvNeXt", "gcc_{H,W}")
    names = {}
    for stage in range(4):
        for part in (0, 1):
            layer = f"downsample_layers.{stage}.{part}"
            names |= same(layer, f"backbone.{layer}")
        for i in range(count(keys, rf"stages\.{stage}\.(\d+)\.")):
            theirs = f"stages.{stage}.{i}"
            block = _block_names(theirs, keys)
            names |= {f"{theirs}.{k}": f"backbone.{theirs}.{v}" for k, v in block.items()}
    names |= output_norms(keys, 4, ["head."])
    add_head(names, keys, "head")
    return rename(state_dict, names, "ParC-ConvNeXt")


def _block_names(block: str, keys: list[str]) -> dict[str, str]:
    names = {}
    for layer in ("norm", "pwconv1", "pwconv2"):
        names |= same(layer, layer)
    if any(key.endswith(".gamma") for key in keys):
        names["gamma"] = "gamma"
    embedded = any(key.endswith((".pe", ".meta_pe")) for key in keys)
    if has(keys, f"{block}.gcc_conv_"):
        for theirs, ours in (("gcc_conv_1H", "mixer.height"), ("gcc_conv_2W", "mixer.width")):
            names |= same(theirs, ours, LAYER)
            if embedded:
                names[f"{theirs}.meta_pe"] = f"{ours}.position_embedding"
        return names
    if has(keys, f"{block}.gcc_"):
        return names | pair_names("gcc_", "mixer", embedded)
    return names | same("dwconv", "mixer")
