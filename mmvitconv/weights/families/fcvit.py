"""The original FCViT layout (docs/specs/fcvit.md#3-state-dict) -> ours.

=====================================  ==========================================
original                               ours
=====================================  ==========================================
patch_embed.*                          backbone.patch_embeds.0.*
network.{2s}.{i}.*                     backbone.stages.{s}.{i}.*
network.{2s+1}.*                       backbone.patch_embeds.{s+1}.*
norm{2s}.* (dense)                     backbone.norm{s}.*
norm.* (classification)                backbone.norm{last}.*
head.*                                 head.fc.*
token_mixer.gc{j}.fc.{0,2}.*           token_mixer.mixes.{j-1}.context.fc{1,2}.*
token_mixer.gc{j}.*                    token_mixer.mixes.{j-1}.context.*
token_mixer.dw{j}.*                    token_mixer.mixes.{j-1}.dwconv.*
token_mixer.fc{j}.{0,2}.*              token_mixer.mixes.{j-1}.fc{1,2}.*
token_mixer.fc{j}.*                    token_mixer.mixes.{j-1}.fc1.*
...spatial_att.spatial_att.{0,1,3}.*   token_mixer.spatial_att.{dwconv,fc1,fc2}.*
...channel_att.channelConv{1,2}.*      channel_mixer.channel_att.conv{1,2}.*
=====================================  ==========================================
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from mmvitconv.weights.families.names import LAYER, NORM, has, rename

_BLOCK_RENAMES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^token_mixer\.gc(\d)\.fc\.0\.", r"token_mixer.mixes.{0}.context.fc1."),
        (r"^token_mixer\.gc(\d)\.fc\.2\.", r"token_mixer.mixes.{0}.context.fc2."),
        (r"^token_mixer\.gc(\d)\.", r"token_mixer.mixes.{0}.context."),
        (r"^token_mixer\.dw(\d)\.", r"token_mixer.mixes.{0}.dwconv."),
        (r"^token_mixer\.fc(\d)\.0\.", r"token_mixer.mixes.{0}.fc1."),
        (r"^token_mixer\.fc(\d)\.2\.", r"token_mixer.mixes.{0}.fc2."),
        (r"^token_mixer\.fc(\d)\.", r"token_mixer.mixes.{0}.fc1."),
        (r"^token_mixer\.spatial_att\.spatial_att\.0\.", "token_mixer.spatial_att.dwconv."),
        (r"^token_mixer\.spatial_att\.spatial_att\.1\.", "token_mixer.spatial_att.fc1."),
        (r"^token_mixer\.spatial_att\.spatial_att\.3\.", "token_mixer.spatial_att.fc2."),
        (r"^channel_mixer\.channel_att\.channelConv(\d)\.", r"channel_mixer.channel_att.conv{1}."),
    )
]
_PATCH_EMBED = (*(f"proj.{name}" for name in LAYER), *(f"norm.{name}" for name in NORM))


def is_original(keys: Iterable[str]) -> bool:
    """Whether the keys are in the original FCViT layout."""
    keys = set(keys)
    return "patch_embed.proj.weight" in keys and any(
        re.match(r"network\.0\.\d+\.token_mixer\.", key) for key in keys
    )


def convert(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an original state dict, classification or dense."""
    expected = _expected_keys(state_dict)
    last = max(int(key.split(".")[1]) for key in expected if key.startswith("network.")) // 2
    return rename(state_dict, {key: _rename(key, last) for key in expected}, "FCViT")


def _rename(key: str, last_stage: int) -> str:
    part, _, rest = key.partition(".")
    if part == "head":
        return f"head.fc.{rest}"
    if part == "patch_embed":
        return f"backbone.patch_embeds.0.{rest}"
    if part == "norm":
        return f"backbone.norm{last_stage}.{rest}"
    if part.startswith("norm"):
        return f"backbone.norm{int(part.removeprefix('norm')) // 2}.{rest}"
    position, _, rest = rest.partition(".")
    stage = int(position) // 2
    if int(position) % 2:
        return f"backbone.patch_embeds.{stage + 1}.{rest}"
    block, _, rest = rest.partition(".")
    for pattern, replacement in _BLOCK_RENAMES:
        match = pattern.match(rest)
        if match:
            index = int(match[1]) - 1 if match.groups() else 0
            rest = replacement.format(index, index + 1) + rest[match.end() :]
            break
    return f"backbone.stages.{stage}.{block}.{rest}"


def _expected_keys(state_dict: Mapping[str, Tensor]) -> set[str]:
    """All keys that a model must have which has some of these: every block has the same parts."""
    block_keys: set[str] = set()
    depths: dict[int, int] = defaultdict(int)
    for key in state_dict:
        match = re.match(r"network\.(\d*[02468])\.(\d+)\.(.*)$", key)
        if match:
            stage, block = int(match[1]) // 2, int(match[2])
            depths[stage] = max(depths[stage], block + 1)
            block_keys.add(match[3])
    num_stages = max(depths, default=0) + 1
    expected = {f"patch_embed.{name}" for name in _PATCH_EMBED}
    for stage in range(num_stages):
        for block in range(max(depths[stage], 1)):
            expected |= {f"network.{2 * stage}.{block}.{name}" for name in _block_keys(block_keys)}
        if stage + 1 < num_stages:
            expected |= {f"network.{2 * stage + 1}.{name}" for name in _PATCH_EMBED}
    if has(state_dict, "norm.", "head."):
        norms = ["norm"] + ["head"] * has(state_dict, "head.")
    else:  # the original drops norm0 when asked to, nothing else
        norms = [f"norm{2 * stage}" for stage in range(1, num_stages)]
        norms += ["norm0"] * has(state_dict, "norm0.")
    return expected | _with_bias(norms)


def _block_keys(seen: set[str]) -> set[str]:
    """The keys of a complete block with the options that the given keys (of any blocks) show."""
    layers = ["norm1", "norm2", "channel_mixer.fc1", "channel_mixer.fc2"]
    vectors: list[str] = []
    if has(seen, "layer_scale_"):
        vectors += ["layer_scale_1", "layer_scale_2"]
    mixes = (1, 2) if has(seen, "token_mixer.dw2", "token_mixer.fc2") else (1,)
    bottleneck = has(seen, "token_mixer.fc1.0", "token_mixer.fc1.2")
    compete = has(seen, "token_mixer.gc1.fc1", "token_mixer.gc1.fc2")
    for mix in mixes:
        name = f"token_mixer.fc{mix}"
        layers += [f"token_mixer.dw{mix}"]
        layers += [f"{name}.0", f"{name}.2"] if bottleneck else [name]
        if has(seen, "token_mixer.gc"):
            context = f"token_mixer.gc{mix}"
            layers += [f"{context}.fc1", f"{context}.fc2"] if compete else [
                f"{context}.fc.0", f"{context}.fc.2"]  # fmt: skip
            if has(seen, "token_mixer.gc1.rescale", "token_mixer.gc2.rescale"):
                vectors += [f"{context}.rescale_weight", f"{context}.rescale_bias"]
    if has(seen, "token_mixer.spatial_att"):
        layers += [f"token_mixer.spatial_att.spatial_att.{i}" for i in (0, 1, 3)]
    if has(seen, "channel_mixer.dwconv"):
        layers += ["channel_mixer.dwconv"]
    if has(seen, "channel_mixer.channel_att"):
        layers += [f"channel_mixer.channel_att.channelConv{i}" for i in (1, 2)]
    return _with_bias(layers) | set(vectors)


def _with_bias(layers: Iterable[str]) -> set[str]:
    return {f"{layer}.{name}" for layer in layers for name in LAYER}


def arch_from_original(config: Mapping[str, Any]) -> dict[str, Any]:
    """Translate the constructor options of the original code into ``FCViT(arch=...)``.

    Args:
        config: ``layers``, ``embed_dims``, ``mlp_ratios`` and ``params``, the nested switches of
            the original (``global_context``, ``spatial_mixer``, ``channel_mixer``, ``spatial_att``,
            ``channel_att``).

    Returns:
        An arch dict. ``use_layer_scale=False`` is not part of it: pass
        ``layer_scale_init_value=None``.
    """
    params = config["params"]
    context, spatial = params["global_context"], params["spatial_mixer"]
    channel, gate = params["channel_mixer"], params["channel_att"]
    sizes = (spatial["mix_size_1"], spatial["mix_size_2"])
    return {
        "depths": tuple(config["layers"]),
        "embed_dims": tuple(config["embed_dims"]),
        "mlp_ratios": tuple(config["mlp_ratios"]),
        "num_heads": context["head"],
        "mix_sizes": sizes if spatial["useSecondTokenMix"] else sizes[:1],
        "fc_factor": spatial["fc_factor"],
        "fc_min_value": spatial["fc_min_value"],
        "use_global_context": spatial["use_globalcontext"],
        "weighted_context": context["weighted_gc"],
        "context_compete": context["compete"],
        "context_reduction": context["gc_reduction"],
        "dwconv_size": channel["DWconv_size"] if channel["useDWconv"] else None,
        "use_spatial_att": spatial["useSpatialAtt"],
        "spatial_att_size": params["spatial_att"]["kernel_size"],
        "spatial_att_reduction": params["spatial_att"]["dim_reduction"],
        "use_channel_att": channel["useChannelAtt"],
        "channel_att_sizes": (gate["size_1"], gate["size_2"]),
    }
