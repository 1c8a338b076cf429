"""Fold norms and scales of a trained model into the layers next to them, exactly.

Each rule below edits one kind of block. They rest on two identities, for a linear layer or
convolution ``L(x) = W x + b``:

* behind it, always: ``s * L(x) + t`` has the weight ``s W`` and the bias ``s b + t``;
* in front of it, if it pads nothing: ``L(s * x + t)`` has the weight ``W s`` and the bias
  ``W t + b``. A convolution that pads zeros would need ``-t / s`` at the border instead.

The products are computed in float64 and rounded once, to the dtype of the layer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import TypeVar

import torch
from torch import Tensor, nn

from mmvitconv.models.backbones import (
    convmixer,
    dynconv_swin,
    dynconv_vit,
    fcvit,
    lightvit,
    parc_net,
    parc_resnet,
)
from mmvitconv.models.backbones import parc_convnext as convnext
from mmvitconv.models.base import Backbone
from mmvitconv.models.layers import Conv2d, DepthwiseConv2d, ParC, ParCPair, PointwiseConv2d
from mmvitconv.runtime.affine import Affine, batch_norm_affine, exact
from mmvitconv.runtime.packing import pack, packing_pays
from mmvitconv.runtime.parc import fold_parc

__all__ = ["InferenceOnly", "fold"]

ModelT = TypeVar("ModelT", bound=nn.Module)


class InferenceOnly(nn.Module):
    """Marks a folded or accelerated module: switching it to training is an error."""

    def train(self, mode: bool = True) -> InferenceOnly:
        """Accept evaluation mode only.

        Args:
            mode: Whether to switch to training mode.

        Returns:
            The module itself.

        Raises:
            RuntimeError: ``mode`` is True.
        """
        if mode:
            raise RuntimeError(
                "this model was folded for inference and cannot be trained; train the model that "
                "fold() or accelerate() was given, or load its checkpoint into a new one"
            )
        return super().train(mode)


def fold(model: ModelT, inplace: bool = False) -> ModelT:
    """Fold what is exact in inference: norms into neighbours, layer scale, ParC's kernels.

    Backbones of this package are folded wherever they are; all other modules stay as they are.
    Their linear layers keep a packed copy of their weights where the CPU is faster with one.
    Layers that somebody replaced, parametrised or listens to by a hook stay, too. The result
    computes what ``model`` computes in evaluation mode, up to rounding. Its state dict has another
    layout, its parameters take no gradients, and it refuses ``train()``.

    Args:
        model: A backbone, or a classifier, detector or segmentor that holds one, in evaluation
            mode.
        inplace: Change ``model`` itself instead of a copy.

    Returns:
        The folded model; ``model`` itself if there is nothing to fold.

    Raises:
        RuntimeError: ``model`` is in training mode.

    Examples:
        >>> from mmvitconv.models import FCViT
        >>> from mmvitconv.runtime import fold
        >>> backbone = fold(FCViT("tiny").eval())
    """
    if model.training:
        raise RuntimeError("fold() takes a model in evaluation mode; call model.eval() first")
    if not any(_is_open(module) for module in model.modules()):
        return model
    model = model if inplace else copy.deepcopy(model)
    with torch.no_grad():
        for backbone in [module for module in model.modules() if _is_open(module)]:
            for module in list(backbone.modules()):
                rule = _RULES.get(type(module), _fold_sequence)
                rule(module)
            for module in list(backbone.modules()):
                _fold_circular(module)
            if packing_pays():
                pack(backbone)
            backbone.requires_grad_(False)
            backbone.add_module("inference_only", InferenceOnly().eval())
    return model


def _is_open(module: nn.Module) -> bool:
    """Whether it is a backbone that has not been folded yet."""
    return isinstance(module, Backbone) and not hasattr(module, "inference_only")


def _is_free(layer: nn.Module | None, *kinds: type[nn.Module]) -> bool:
    """Whether a layer is of one of these classes itself, and nobody listens to it."""
    hooks = ("_forward_hooks", "_forward_pre_hooks")
    return type(layer) in kinds and not any(getattr(layer, name) for name in hooks)


def _set(layer: nn.Module, name: str, values: Tensor) -> None:
    """Give a layer a parameter of these values, in the place and dtype of its weight."""
    setattr(layer, name, nn.Parameter(values.to(layer.weight), requires_grad=False))


def _bias(layer: nn.Module, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if layer.bias is None else exact(layer.bias)


def _fold_behind(layer: nn.Module, affine: Affine) -> None:
    """Make ``layer`` compute ``scale * layer(x) + shift``."""
    scale, shift = affine
    weight, bias = exact(layer.weight), _bias(layer, shift)
    _set(layer, "weight", weight * scale.view(-1, *(1,) * (weight.dim() - 1)))
    _set(layer, "bias", bias * scale + shift)


def _fold_before(layers: list[nn.Module], affine: Affine) -> None:
    """Make each layer compute ``layer(scale * x + shift)``; none may pad its input."""
    scale, shift = affine
    for layer in layers:
        weight = exact(layer.weight)
        groups = getattr(layer, "groups", 1)
        rows = weight.flatten(1).unflatten(0, (groups, -1))  # groups, D / groups, C / groups
        added = torch.einsum("gdc,gc->gd", rows, shift.view(groups, -1)).flatten()
        rows = rows * scale.view(groups, 1, -1)
        bias = _bias(layer, added)
        _set(layer, "weight", rows.reshape(weight.shape))
        _set(layer, "bias", bias + added)


def _take_affine(norm: nn.LayerNorm | nn.GroupNorm) -> Affine | None:
    """Remove and return a norm's scale and shift; None if it has none."""
    if norm.weight is None:
        return None
    scale = exact(norm.weight)
    affine = scale, _bias(norm, scale)
    norm.weight = norm.bias = None
    return affine


def _fold_norm_behind(owner: nn.Module, conv: str, norm: str) -> None:
    """Fold a BatchNorm into the convolution whose output it takes."""
    layer, module = getattr(owner, conv), getattr(owner, norm)
    affine = batch_norm_affine(module)
    if affine is None or not _is_free(module, *_NORMS):
        return
    if _is_free(layer, *_LINEAR):
        _fold_behind(layer, affine)
    elif _is_free(layer, ParCPair):
        setattr(owner, conv, fold_parc(layer, norm=module))
    else:
        return
    setattr(owner, norm, nn.Identity())


def _fold_norm_before(owner: nn.Module, norm: str, *layers: nn.Module) -> None:
    """Fold a norm's affine part, or all of a BatchNorm, into the only layers that read it."""
    module = getattr(owner, norm)
    if not all(_is_free(layer, *_LINEAR) for layer in layers):
        return
    if _is_free(module, *_NORMS):
        if affine := batch_norm_affine(module):
            _fold_before(list(layers), affine)
            setattr(owner, norm, nn.Identity())
    elif _is_free(module, nn.LayerNorm, fcvit.CanvasNorm) and (affine := _take_affine(module)):
        _fold_before(list(layers), affine)


def _fold_scale(owner: nn.Module, name: str, layer: nn.Module) -> None:
    """Fold a layer scale into the projection in front of it."""
    gamma = getattr(owner, name)
    if gamma is not None and _is_free(layer, *_LINEAR):
        scale = exact(gamma)
        _fold_behind(layer, (scale, torch.zeros_like(scale)))
        setattr(owner, name, None)


def _fold_sequence(module: nn.Module) -> None:
    """Fold each BatchNorm that follows a convolution in a plain sequence."""
    if type(module).forward is not nn.Sequential.forward:
        return
    names = list(module._modules)
    for conv, norm in pairwise(names):
        if isinstance(module._modules[conv], (nn.Conv2d, ParCPair)):
            _fold_norm_behind(module, conv, norm)


def _fold_circular(module: nn.Module) -> None:
    """Replace the circular convolutions among a module's children by folded ones."""
    for name, child in module.named_children():
        norm = getattr(child, "norm", None)
        if _is_free(child, ParC) and (norm is None or batch_norm_affine(norm)):
            setattr(module, name, fold_parc(child))


class ScaledSkip(nn.Module):
    """The spatial half of ConvMixer's block in one pass: ``x + scale * act(conv(x))``.

    Args:
        conv: Depth-wise convolution.
        act: Activation.
        scale: Of the folded BatchNorm, shape (C,). Its shift is in the next layer's bias.
    """

    def __init__(self, conv: nn.Module, act: nn.Module, scale: Tensor) -> None:
        super().__init__()
        self.conv, self.act = conv, act
        self.register_buffer("scale", scale.to(conv.weight).view(-1, 1, 1))

    def forward(self, x: Tensor, *_: float) -> Tensor:
        """Mix space in a map of shape (B, C, H, W)."""
        return torch.addcmul(x, self.act(self.conv(x)), self.scale)


def _fold_conv_norm(module: nn.Module) -> None:
    _fold_norm_behind(module, "conv", "norm")


def _fold_patch_embed(module: nn.Module) -> None:
    _fold_norm_behind(module, "proj", "norm")


def _fold_fcvit_block(block: nn.Module) -> None:
    mixer = block.channel_mixer
    _fold_norm_before(block, "norm2", mixer.fc1)
    if mixer.channel_att is None:
        _fold_scale(block, "layer_scale_2", mixer.fc2)


def _fold_lightvit_stem(stem: nn.Sequential) -> None:
    for index in range(0, len(stem), 3):  # convolution, norm, activation
        _fold_norm_behind(stem, str(index), str(index + 1))


def _fold_lightvit_block(block: nn.Module) -> None:
    # norm1 stays: the attention's windows are padded behind it.
    _fold_norm_before(block, "norm2", block.ffn.fc1)
    # Means over tokens are linear, so that both readers of this norm take its affine part.
    _fold_norm_before(block.ffn, "norm", block.ffn.local_reduce, block.ffn.global_reduce)


def _fold_lightvit_merge(merge: nn.Module) -> None:
    _fold_norm_before(merge, "norm", merge.reduction)
    _fold_norm_before(merge, "norm2", merge.proj)


def _fold_convmixer_block(block: nn.Sequential) -> None:
    # The norm behind the 1x1 convolution stays: the next block pads what it gives.
    conv, act, norm = block[0].fn
    affine = batch_norm_affine(norm)
    if affine and _is_free(norm, *_NORMS) and _is_free(block[1], *_LINEAR):
        scale, shift = affine
        _fold_before([block[1]], (torch.ones_like(shift), shift))
        block[0] = ScaledSkip(conv, act, scale)


def _fold_convnext_block(block: nn.Module) -> None:
    _fold_norm_before(block, "norm", block.pwconv1)
    _fold_scale(block, "gamma", block.pwconv2)


def _fold_resnet_block(block: nn.Module) -> None:
    for number in (1, 2, 3):
        _fold_norm_behind(block, f"conv{number}", f"bn{number}")


def _fold_resnet_stem(backbone: nn.Module) -> None:
    _fold_norm_behind(backbone, "conv1", "bn1")


def _fold_parc_ffn(ffn: nn.Module) -> None:
    _fold_norm_before(ffn, "norm", ffn.fc1)


def _fold_parc_stage(stage: nn.Module) -> None:
    _fold_norm_before(stage, "norm", stage.project_out.conv)


def _fold_dynconv_block(block: nn.Module) -> None:
    _fold_norm_before(block, "norm2", block.mlp.fc1)


def _fold_dynconv_merge(merge: nn.Module) -> None:
    _fold_norm_before(merge, "norm", merge.reduction)


_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm)
_LINEAR = (nn.Linear, nn.Conv2d, Conv2d, DepthwiseConv2d, PointwiseConv2d)
_RULES: dict[type[nn.Module], Callable[[nn.Module], None]] = {
    fcvit.PatchEmbed: _fold_patch_embed,
    fcvit.Block: _fold_fcvit_block,
    lightvit.Stem: _fold_lightvit_stem,
    lightvit.Block: _fold_lightvit_block,
    lightvit.Merge: _fold_lightvit_merge,
    convmixer.Block: _fold_convmixer_block,
    convnext.Block: _fold_convnext_block,
    parc_net.ConvNorm: _fold_conv_norm,
    parc_resnet.Bottleneck: _fold_resnet_block,
    parc_resnet.ParCResNet: _fold_resnet_stem,
    parc_net.FFN: _fold_parc_ffn,
    parc_net.ParCStage: _fold_parc_stage,
    dynconv_vit.Block: _fold_dynconv_block,
    dynconv_swin.Merge: _fold_dynconv_merge,
}
