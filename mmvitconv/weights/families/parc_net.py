"""The original ParC-Net layout (docs/specs/parc.md#5-state-dict) -> ours.

=============================================  ===============================================
original                                       ours
=============================================  ===============================================
conv_1.block.*                                 backbone.stem.*
layer_{1..5}.{i}.block.exp_1x1.block.*         backbone.stages.{0..4}.{i}.expand.*
layer_{1..5}.{i}.block.conv_3x3.block.*        backbone.stages.{0..4}.{i}.depthwise.*
layer_{1..5}.{i}.block.red_1x1.block.*         backbone.stages.{0..4}.{i}.reduce.*
layer_{3..5}.1.dim_adaptive.0.block.*          backbone.stages.{2..4}.1.project_in.*
layer_{3..5}.1.dim_adaptive.1.block.conv.*     backbone.stages.{2..4}.1.mix.*
layer_{3..5}.1.spatial_global_rep.{i}.*        backbone.stages.{2..4}.1.blocks.{i}.*
layer_{3..5}.1.spatial_global_rep.{n}.*        backbone.stages.{2..4}.1.norm.*, n blocks
layer_{3..5}.1.channel_adaptive.block.*        backbone.stages.{2..4}.1.project_out.*
layer_{3..5}.1.local_global_fusion.block.*     backbone.stages.{2..4}.1.fuse.*
conv_1x1_exp.block.*                           backbone.stages.5.*
classifier.fc.*                                head.fc.*
residual.*                                     dropped: an alias of layer_5.0.*
...meta_kernel_{1_H,2_W,1_W,2_H}               ...{half1.0,half1.1,half2.0,half2.1}.weight
...meta_pe_{1_H,2_W,1_W,2_H}                   ...{...}.position_embedding
...meta_{1_H,2_W,1_W,2_H}_bias                 ...{...}.bias
...pre_Norm_{1,2}.*                            ...half{1,2}.0.norm.*
...ffn.{0,1,4}.*                               ...ffn.{norm,fc1,fc2}.*
...ca.fc.{0,1}.*, ca.fc.{3,4}.*                ...attention.{reduce,expand}.{conv,norm}.*
=============================================  ===============================================

The backbone of the SSDLite detector and of the DeepLabv3 segmentor has the prefix ``encoder.``, and
beside it are these, become mmdet's ``SingleStageDetector`` and mmseg's ``EncoderDecoder``:

=============================================  ===============================================
original                                       ours
=============================================  ===============================================
extra_layers.os_{64,128,256}.{d,p}w_conv.*     neck.extra_layers.{0,1,2}.{depth,point}wise_conv.*
extra_layers.os_-1.1.block.conv.*              neck.pooled_conv.*
ssd_heads.{i}.proj_layer.*                     bbox_head.projections.{i}.*
ssd_heads.{i}.loc_cls_layer.{d,p}w_conv.*      bbox_head.predictors.{i}.{depth,point}wise_conv.*
ssd_heads.5.loc_cls_layer.block.conv.*         bbox_head.predictors.5.*
seg_head.aspp.aspp_layer.convs.{0..3}.*        decode_head.aspp_modules.{0..3}.*
seg_head.aspp.aspp_layer.convs.4.*             decode_head.image_pool.1.*
seg_head.aspp.aspp_layer.project.*             decode_head.bottleneck.*
seg_head.classifier.classifier.block.conv.*    decode_head.conv_seg.*
=============================================  ===============================================

The detector's background class goes from the first place to the last, the segmentor's pooled branch
from the last to the first.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from mmvitconv.errors import CheckpointError
from mmvitconv.weights.families.names import NORM, add_head, count, has, rename, same

_PARC_KEY = re.compile(r"(encoder\.)?layer_\d\.1\.spatial_global_rep\.\d+\.meta_kernel_\d_[HW]$")
# each half goes through two ParC layers: the second index is the layer's position in its half
_PARC_LAYERS = {"1_H": "half1.0", "2_W": "half1.1", "1_W": "half2.0", "2_H": "half2.1"}
_LAST_LEVEL = 5  # of the detector: one convolution, 4 anchors instead of 6
_ALIAS, _ALIASED = "residual.", "layer_5.0."


def is_original(keys: Iterable[str]) -> bool:
    """Whether the keys are in the original ParC-Net layout."""
    return any(map(_PARC_KEY.match, keys))


def convert(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename an original state dict of a classifier, a backbone, or a detector or segmentor."""
    prefix = "encoder." if has(state_dict, "encoder.") else ""
    encoder = [key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)]
    names = {prefix + theirs: ours for theirs, ours in _names(encoder).items()}
    # the originals' builder registers one module twice, and their EMA then lets the copies drift
    # apart; on loading, the one that is copied last is in force
    aliases = {
        prefix + _ALIAS + key.removeprefix(prefix + _ALIASED)
        for key in names
        if key.startswith(prefix + _ALIASED)
    }
    if has(state_dict, "extra_layers.", "ssd_heads."):
        names |= _detector_names()
    if has(state_dict, "seg_head."):
        names |= _segmentor_names()
    given = {key: value for key, value in state_dict.items() if key not in aliases}
    renamed = rename(given, names, "ParC-Net")
    return {key: _reorder(key, value) for key, value in renamed.items()}


def _names(keys: list[str]) -> dict[str, str]:
    """Our key by original key, for the complete backbone or classifier that has these keys."""
    names = _conv_norm("conv_1", "backbone.stem")
    for stage in range(5):
        theirs, ours = f"layer_{stage + 1}", f"backbone.stages.{stage}"
        residuals = 1 if stage > 1 else count(keys, rf"{theirs}\.(\d+)\.block\.")
        for i in range(residuals):
            for part, our_part in (
                ("exp_1x1", "expand"),
                ("conv_3x3", "depthwise"),
                ("red_1x1", "reduce"),
            ):
                names |= _conv_norm(f"{theirs}.{i}.block.{part}", f"{ours}.{i}.{our_part}")
        if stage > 1:
            names |= _frame_names(keys, f"{theirs}.1", f"{ours}.1")
    if has(keys, "classifier.", "conv_1x1_exp."):
        names |= _conv_norm("conv_1x1_exp", "backbone.stages.5")
    add_head(names, keys, "classifier", "classifier.fc")
    return names


def _conv_norm(theirs: str, ours: str, norm: str = "norm") -> dict[str, str]:
    conv = {f"{theirs}.block.conv.weight": f"{ours}.conv.weight"}
    return conv | same(f"{theirs}.block.norm", f"{ours}.{norm}", NORM)


def _frame_names(keys: list[str], theirs: str, ours: str) -> dict[str, str]:
    blocks = f"{theirs}.spatial_global_rep"
    # the closing norm has the next index, but none of these parts
    depth = count(keys, rf"{re.escape(blocks)}\.(\d+)\.(meta|pre_Norm|ffn|ca)")
    names = {f"{theirs}.dim_adaptive.1.block.conv.weight": f"{ours}.mix.weight"}
    names |= _conv_norm(f"{theirs}.dim_adaptive.0", f"{ours}.project_in")
    names |= _conv_norm(f"{theirs}.channel_adaptive", f"{ours}.project_out")
    names |= _conv_norm(f"{theirs}.local_global_fusion", f"{ours}.fuse")
    names |= same(f"{blocks}.{depth}", f"{ours}.norm", NORM)
    for i in range(depth):
        block = _block_names(keys, has_position_embedding=i == 0)
        names |= {f"{blocks}.{i}.{k}": f"{ours}.blocks.{i}.{v}" for k, v in block.items()}
    return names


def _block_names(keys: list[str], has_position_embedding: bool) -> dict[str, str]:
    """The names of a complete block with the options that the given keys (of any blocks) show."""

    def contains(part: str) -> bool:
        return any(f".{part}" in key for key in keys)

    names = {}
    for theirs, ours in _PARC_LAYERS.items():
        names[f"meta_kernel_{theirs}"] = f"{ours}.weight"
        if has_position_embedding and contains("meta_pe_"):
            names[f"meta_pe_{theirs}"] = f"{ours}.position_embedding"
        if any(key.endswith(("_H_bias", "_W_bias")) for key in keys):
            names[f"meta_{theirs}_bias"] = f"{ours}.bias"
    names |= same("pre_Norm_1", "half1.0.norm", NORM) | same("pre_Norm_2", "half2.0.norm", NORM)
    names |= same("ffn.0", "ffn.norm", NORM) | same("ffn.1", "ffn.fc1") | same("ffn.4", "ffn.fc2")
    if contains("ca.fc."):
        for first, ours in ((0, "attention.reduce"), (3, "attention.expand")):
            names[f"ca.fc.{first}.weight"] = f"{ours}.conv.weight"
            names |= same(f"ca.fc.{first + 1}", f"{ours}.norm", NORM)
    return names


def _detector_names() -> dict[str, str]:
    """The neck and the head of SSDLite."""
    names = {"extra_layers.os_-1.1.block.conv.weight": "neck.pooled_conv.weight"}
    for i, stride in enumerate((64, 128, 256)):
        for theirs, ours in (("dw", "depthwise"), ("pw", "pointwise")):
            layer = f"neck.extra_layers.{i}.{ours}_conv"
            names |= _conv_norm(f"extra_layers.os_{stride}.{theirs}_conv", layer, "bn")
    for i in range(2):
        names |= _conv_norm(f"ssd_heads.{i}.proj_layer", f"bbox_head.projections.{i}", "bn")
    for i in range(_LAST_LEVEL):
        theirs, ours = f"ssd_heads.{i}.loc_cls_layer", f"bbox_head.predictors.{i}"
        names |= _conv_norm(f"{theirs}.dw_conv", f"{ours}.depthwise_conv", "bn")
        names |= same(f"{theirs}.pw_conv.block.conv", f"{ours}.pointwise_conv.conv")
    theirs, ours = f"ssd_heads.{_LAST_LEVEL}.loc_cls_layer", f"bbox_head.predictors.{_LAST_LEVEL}"
    return names | same(f"{theirs}.block.conv", ours)


def _segmentor_names() -> dict[str, str]:
    """The head of DeepLabv3."""
    aspp = "seg_head.aspp.aspp_layer"
    names = same("seg_head.classifier.classifier.block.conv", "decode_head.conv_seg")
    for i in range(4):
        names |= _conv_norm(f"{aspp}.convs.{i}", f"decode_head.aspp_modules.{i}", "bn")
    pool = f"{aspp}.convs.4.aspp_pool.conv_1x1"
    names |= _conv_norm(pool, "decode_head.image_pool.1", "bn")
    return names | _conv_norm(f"{aspp}.project", "decode_head.bottleneck", "bn")


def _reorder(key: str, value: Tensor) -> Tensor:
    """An entry with its channels in the order of mmdet and mmseg."""
    if key == "decode_head.bottleneck.conv.weight":
        return value.roll(value.shape[0], dims=1)  # all branches are as wide as their projection
    level = re.match(r"bbox_head\.predictors\.(\d)\.(pointwise_conv\.conv\.)?(weight|bias)$", key)
    if level is None:
        return value
    anchors = 4 if int(level[1]) == _LAST_LEVEL else 6
    channels, rest = divmod(value.shape[0], anchors)
    if rest or channels < 6:
        raise CheckpointError(
            f"ssd_heads.{level[1]} predicts {value.shape[0]} channels; expected {anchors} times "
            "4 locations, the background and at least one class: give a file of an SSDLite"
        )
    location, background, classes = value.unflatten(0, (anchors, channels)).split(
        (4, 1, channels - 5), dim=1
    )
    return torch.cat((location, classes, background), dim=1).flatten(0, 1)
