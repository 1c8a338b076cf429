"""DeiT's original layout, which is timm's and that of other plain ViTs -> ours.

===============================  ==============================================
original                         ours
===============================  ==============================================
cls_token, pos_embed             backbone.cls_token, backbone.pos_embed
patch_embed.proj.*               backbone.patch_embed.proj.*
blocks.{i}.attn.{qkv,proj}.*     backbone.blocks.{i}.mixer.{qkv,proj}.*
blocks.{i}.norm{1,2}.*           backbone.blocks.{i}.norm{1,2}.*
blocks.{i}.mlp.fc{1,2}.*         backbone.blocks.{i}.mlp.fc{1,2}.*
norm.*                           backbone.norm{last}.*
head.*                           head.fc.*
===============================  ==============================================

mmpretrain's files have other names (``layers.{i}.ln1``, ``ffn.layers.*``). A backbone without class
token drops it, and its entry of the position embedding, on loading. Of a distilled DeiT the second
token is dropped with its position and its head, and a warning says so: the network is another one
then, because that token takes part in every block.
"""

import logging
from collections.abc import Iterable, Mapping

import torch
from mmengine.logging import print_log
from torch import Tensor

from mmvitconv.weights.families.names import (
    LAYER,
    TRANSFORMER_BLOCK,
    add_head,
    count,
    from_openmmlab,
    rename,
    same,
)

_BLOCKS = ("layers", "blocks")  # mmpretrain's name and the original one


def is_original(keys: Iterable[str]) -> bool:
    """Whether the keys are in the original DeiT layout; ViTs with other blocks are not."""
    keys = {from_openmmlab(key, _BLOCKS) for key in keys}
    block = {key.removeprefix("blocks.0.") for key in keys if key.startswith("blocks.0.")}
    expected = {f"{layer}.{entry}" for layer in TRANSFORMER_BLOCK for entry in LAYER}
    return {"pos_embed", "patch_embed.proj.weight"} <= keys and block == expected


def convert(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an original state dict, with or without classifier and class token."""
    state_dict = {from_openmmlab(key, _BLOCKS): value for key, value in state_dict.items()}
    if "dist_token" in state_dict:
        state_dict = _without_distillation(state_dict)
    depth = count(state_dict, r"blocks\.(\d+)\.")
    names = {"pos_embed": "backbone.pos_embed"}
    if "cls_token" in state_dict:
        names["cls_token"] = "backbone.cls_token"
    names |= same("patch_embed.proj", "backbone.patch_embed.proj")
    for index in range(depth):
        for theirs, ours in TRANSFORMER_BLOCK.items():
            names |= same(f"blocks.{index}.{theirs}", f"backbone.blocks.{index}.{ours}")
    names |= same("norm", f"backbone.norm{depth - 1}")
    add_head(names, state_dict, "head")
    return rename(state_dict, names, "DeiT")


def _without_distillation(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Drop the second token, its position and its classifier."""
    print_log(
        "these weights are of a distilled DeiT: its distillation token and the head behind it are "
        "dropped, the class token stays; fine-tune before you compare results",
        "current",
        logging.WARNING,
    )
    kept = {
        key: value
        for key, value in state_dict.items()
        if key != "dist_token" and not key.startswith("head_dist.")
    }
    position = state_dict["pos_embed"]
    return {**kept, "pos_embed": torch.cat([position[:, :1], position[:, 2:]], dim=1)}
