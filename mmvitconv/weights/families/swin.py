"""The original Swin layout, timm's and OpenMMLab's -> ours.

=========================================  ============================================
original                                   ours
=========================================  ============================================
patch_embed.{proj,norm}.*                  backbone.patch_embed.{proj,norm}.*
layers.{s}.downsample.*, at its end        backbone.downsamples.{s+1}.*
layers.{s}.downsample.*, timm: at its      backbone.downsamples.{s}.*
  start
layers.{s}.blocks.{i}.attn.*               backbone.stages.{s}.{i}.mixer.*
layers.{s}.blocks.{i}.{norm1,norm2,mlp}.*  backbone.stages.{s}.{i}.{norm1,norm2,mlp}.*
norm{s}.* (detection, segmentation)        backbone.norm{s}.*
norm.* (classification)                    backbone.norm{last}.*
head.*, timm: head.fc.*                    head.fc.*
...attn.relative_position_index            computed, so neither needed nor kept
...attn_mask                               the same
=========================================  ============================================

The four tokens that a merging joins have the same order as ours. mmpretrain's, mmdetection's and
mmsegmentation's files have other names (``stages.{s}.blocks.{i}.attn.w_msa.*``, ``ffn.layers.*``)
and another order: theirs are the channels of an unfolded 2 x 2 patch, row by row.
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from mmvitconv.weights.families.names import (
    TRANSFORMER_BLOCK,
    add_head,
    count,
    from_openmmlab,
    has,
    output_norms,
    rename,
    same,
)

_TABLE = "relative_position_bias_table"
_COMPUTED = (".relative_position_index", ".attn_mask")
_STAGES = ("stages", "layers")  # OpenMMLab's name and the original one
_OPENMMLAB = ".attn.w_msa."


def is_original(keys: Iterable[str]) -> bool:
    """Whether the keys are in the original Swin layout, timm's or OpenMMLab's."""
    block = "layers.0.blocks.0"
    needed = {f"{block}.attn.qkv.weight", f"{block}.attn.{_TABLE}", f"{block}.mlp.fc1.weight"}
    return needed <= {from_openmmlab(key, _STAGES) for key in keys}


def convert(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an original state dict of a classifier or a dense backbone."""
    given = {key: value for key, value in state_dict.items() if not key.endswith(_COMPUTED)}
    if any(_OPENMMLAB in key for key in given):
        given = _to_original(given)
    num_stages = count(given, r"layers\.(\d+)\.")
    first = 0 if has(given, "layers.0.downsample.") else 1
    names = same("patch_embed.proj", "backbone.patch_embed.proj")
    names |= same("patch_embed.norm", "backbone.patch_embed.norm")
    for stage in range(num_stages):
        if stage:
            theirs, ours = f"layers.{stage - 1 + first}.downsample", f"backbone.downsamples.{stage}"
            names |= same(f"{theirs}.norm", f"{ours}.norm")
            names[f"{theirs}.reduction.weight"] = f"{ours}.reduction.weight"
        for index in range(count(given, rf"layers\.{stage}\.blocks\.(\d+)\.")):
            theirs, ours = f"layers.{stage}.blocks.{index}", f"backbone.stages.{stage}.{index}"
            names[f"{theirs}.attn.{_TABLE}"] = f"{ours}.mixer.{_TABLE}"
            for layer, our_layer in TRANSFORMER_BLOCK.items():
                names |= same(f"{theirs}.{layer}", f"{ours}.{our_layer}")
    names |= output_norms(given, num_stages, ["head."])
    add_head(names, given, "head", "head.fc" if has(given, "head.fc.") else "head")
    return rename(given, names, "Swin")


def _to_original(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn OpenMMLab's names and order of merged tokens into the original ones."""
    found = {from_openmmlab(key, _STAGES): value for key, value in given.items()}
    for key, value in found.items():
        if ".downsample." in key:  # (C, row, column) of a patch -> (column, row, C)
            found[key] = value.unflatten(-1, (-1, 2, 2)).transpose(-3, -1).flatten(-3)
    last = f"norm{count(found, r'layers[.]([0-9]+)[.]') - 1}"
    if has(found, "head.") and has(found, f"{last}."):  # a classifier's only norm
        found = {re.sub(rf"^{last}\.", "norm.", key): value for key, value in found.items()}
    return found
