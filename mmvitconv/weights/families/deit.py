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

A backbone without class token drops it, and its entry of the position embedding, on loading. A
distilled DeiT is refused: its second token takes part in every block, and we have no place for it.
"""

from collections.abc import Iterable, Mapping

from torch import Tensor

from mmvitconv.errors import CheckpointError
from mmvitconv.weights.families.names import LAYER, TRANSFORMER_BLOCK, add_head, count, rename, same


def is_original(keys: Iterable[str]) -> bool:
    """Whether the keys are in the original DeiT layout; ViTs with other blocks are not."""
    keys = set(keys)
    block = {key.removeprefix("blocks.0.") for key in keys if key.startswith("blocks.0.")}
    expected = {f"{layer}.{entry}" for layer in TRANSFORMER_BLOCK for entry in LAYER}
    return {"pos_embed", "patch_embed.proj.weight"} <= keys and block == expected


def convert(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an original state dict, with or without classifier and class token.

    Args:
        state_dict: Original keys without wrapper prefixes.

    Returns:
        ``backbone.*`` and, for a classifier, ``head.fc.*``.

    Raises:
        CheckpointError: Keys are missing or left over, or the DeiT is a distilled one.
    """
    if "dist_token" in state_dict:
        raise CheckpointError(
            "these weights are of a distilled DeiT, whose second token (dist_token) has no place "
            "here; give those of a plain one, such as deit_tiny_patch16_224"
        )
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
