"""The original LightViT layout (docs/specs/lightvit.md#7-state-dict) -> ours.

===============================  ==============================================
original                         ours
===============================  ==============================================
global_token                     backbone.patch_embed.global_token
patch_embed.*                    backbone.patch_embed.*
stages.{1,2}.0.* (merge)         backbone.merges.{0,1}.*
stages.0.{j}.*                   backbone.stages.0.{j}.*
stages.{1,2}.{j}.*, j >= 1       backbone.stages.{1,2}.{j-1}.*
...attn.qkv.*                    ...attn.q.* (first third), ...attn.kv.* (the rest)
...attn.relative_position_index  computed, so neither needed nor kept
...mlp.attn.spatial_select.*     ...ffn.spatial_select.weight (first half), spatial_context.*
...mlp.attn.*, mlp.fc{1,2}.*     ...ffn.*
norm{s}.* (detection)            backbone.norm{s}.*
norm.* (classification)          backbone.norm{last}.*
neck.{0,1}.* (classification)    neck.{fc,norm}.*
head.*                           head.fc.*
===============================  ==============================================
"""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

from mmvitconv.weights.families.names import LAYER, NORM, has, rename

_MERGE = ("norm.weight", "norm.bias", "norm2.weight", "norm2.bias", "reduction.weight",
          "proj.weight", "res_proj.weight")  # fmt: skip
_GATES = ("norm", "global_reduce", "local_reduce", "channel_select", "spatial_select")
_BLOCK_LAYERS = ("norm1", "norm2", "attn.qkv", "attn.kv_global", "attn.proj", "mlp.fc1", "mlp.fc2",
                 *(f"mlp.attn.{name}" for name in _GATES))  # fmt: skip


def is_original(keys: Iterable[str]) -> bool:
    """Whether the keys are in the original LightViT layout."""
    keys = set(keys)
    return {"stages.0.0.attn.qkv.weight", "stages.0.0.attn.kv_global.weight"} <= keys


def convert(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an original state dict of the classification or the detection code."""
    given = {k: v for k, v in state_dict.items() if not k.endswith(".relative_position_index")}
    expected = _expected_keys(given)
    last_stage = max(int(key.split(".")[1]) for key in expected if key.startswith("stages."))
    names = {key: _rename(key, last_stage) for key in expected}
    converted: dict[str, Tensor] = {}
    for renamed, value in rename(given, names, "LightViT").items():
        if ".attn.qkv." in renamed:
            dims = value.shape[0] // 3
            converted[renamed.replace(".qkv.", ".q.")] = value[:dims].clone()
            converted[renamed.replace(".qkv.", ".kv.")] = value[dims:].clone()
        elif renamed.endswith(".spatial_select.weight"):
            local, context = value.chunk(2, dim=1)
            converted[renamed] = local.clone()
            converted[renamed.replace("_select.", "_context.")] = context.clone()
        elif renamed.endswith(".spatial_select.bias"):
            converted[renamed.replace("_select.", "_context.")] = value
        else:
            converted[renamed] = value
    return converted


def _rename(key: str, last_stage: int) -> str:
    part, _, rest = key.partition(".")
    if part == "global_token":
        return "backbone.patch_embed.global_token"
    if part == "norm":
        return f"backbone.norm{last_stage}.{rest}"
    if part == "neck":
        return f"neck.{('fc', 'norm')[int(rest[0])]}{rest[1:]}"
    if part == "head":
        return f"head.fc.{rest}"
    if part != "stages":
        return f"backbone.{key}"
    stage, position, rest = rest.split(".", 2)
    if stage != "0" and position == "0":
        return f"backbone.merges.{int(stage) - 1}.{rest}"
    block = int(position) - (stage != "0")
    rest = re.sub(r"^mlp\.(attn\.)?", "ffn.", rest)
    return f"backbone.stages.{stage}.{block}.{rest}"


def _expected_keys(state_dict: Mapping[str, Tensor]) -> set[str]:
    """All keys that a model must have which has some of these."""
    depths: dict[int, int] = {0: 1}
    for key in state_dict:
        match = re.match(r"stages\.(\d+)\.(\d+)\.", key)
        if match:
            stage, position = int(match[1]), int(match[2])
            depths[stage] = max(depths.get(stage, 0), position + 1)
    num_stages = max(depths) + 1
    layers = ["patch_embed.proj", "patch_embed.norm"]
    expected = {"global_token"}
    expected |= {f"patch_embed.stem.{i}.weight" for i in (0, 3, 6, 9)}
    expected |= {f"patch_embed.stem.{i}.{name}" for i in (1, 4, 7, 10) for name in NORM}
    for stage in range(num_stages):
        first = 1 if stage else 0
        if stage:
            expected |= {f"stages.{stage}.0.{name}" for name in _MERGE}
        for position in range(first, max(depths.get(stage, 0), first + 1)):
            block = f"stages.{stage}.{position}"
            expected.add(f"{block}.attn.relative_position_bias_table")
            layers += [f"{block}.{name}" for name in _BLOCK_LAYERS]
    if has(state_dict, "norm.", "neck.", "head."):
        layers += ["norm", "neck.0", "neck.1"]
        layers += ["head"] * has(state_dict, "head.")
    else:
        norms = [f"norm{stage}" for stage in range(num_stages)]
        given = [n for n in norms if has(state_dict, f"{n}.")]
        layers += given or norms
    return expected | {f"{layer}.{name}" for layer in layers for name in LAYER}
