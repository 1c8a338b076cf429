"""Layer-wise learning-rate decay for the backbone of any model."""

from __future__ import annotations

from difflib import get_close_matches

from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from mmvitconv.engine.configuration import PARAMWISE_OPTIONS
from mmvitconv.engine.modules import find_backbones, unwrap_model
from mmvitconv.engine.quiet import quiet_logger
from mmvitconv.errors import UserError
from mmvitconv.registry import OPTIM_WRAPPER_CONSTRUCTORS


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Gives the early layers of the backbone a smaller learning rate.

    A parameter of layer ``i`` of ``n`` gets ``lr * layer_decay_rate ** (n - i - 1)``; ``i`` and
    ``n`` come from the backbone's ``get_layer_depth(param_name, prefix)``. Necks, heads and all
    else outside the backbone get the full rate. It works for classifiers, detectors, segmentors,
    models that hold several of those, and for a bare backbone, wrapped or not. All other options
    are those of MMEngine's default constructor and follow its rules; an ``lr_mult`` in
    ``custom_keys`` multiplies the decayed rate. Frozen parameters are left out.

    ``backbone_lr_mult`` multiplies the whole backbone's rate and leaves the rules of weight decay
    alone, where ``custom_keys=dict(backbone=...)`` would set them aside for all that it matches.

    Args:
        optim_wrapper_cfg: Config of the optimizer wrapper with the key ``optimizer``.
        paramwise_cfg: ``layer_decay_rate`` in (0, 1], default 1; ``backbone_lr_mult``, positive,
            default 1; and MMEngine's own options: ``norm_decay_mult``, ``bias_decay_mult``,
            ``flat_decay_mult``, ``custom_keys``, ...

    Raises:
        UserError: For an unknown option, a rate outside (0, 1], a factor that is not positive, an
            optimizer without ``lr``, or a backbone without ``get_layer_depth``.

    Examples:
        >>> optim_wrapper = dict(
        ...     optimizer=dict(type="AdamW", lr=1e-4),
        ...     constructor="mmvitconv.LayerDecayOptimWrapperConstructor",
        ...     paramwise_cfg=dict(layer_decay_rate=0.7),
        ... )
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        super().__init__(optim_wrapper_cfg, paramwise_cfg)
        for option in self.paramwise_cfg:
            if option not in PARAMWISE_OPTIONS:
                near = get_close_matches(option, PARAMWISE_OPTIONS, n=1)
                legal = f"legal: {sorted(PARAMWISE_OPTIONS)}"
                hint = f"did you mean {near[0]!r}?" if near else legal
                raise UserError(f"paramwise_cfg has no option {option!r}; {hint}")
        self.rate = self.paramwise_cfg.get("layer_decay_rate", 1.0)
        if not isinstance(self.rate, (int, float)) or not 0 < self.rate <= 1:
            raise UserError(f"layer_decay_rate must be a number in (0, 1], got {self.rate!r}")
        self.factor = self.paramwise_cfg.get("backbone_lr_mult", 1.0)
        if not isinstance(self.factor, (int, float)) or self.factor <= 0:
            raise UserError(f"backbone_lr_mult must be a positive number, got {self.factor!r}")
        if self.base_lr is None:
            raise UserError("layer-wise decay needs optimizer.lr in the config")

    def add_params(self, params: list[dict], module: nn.Module, **kwargs) -> None:
        """Append the parameter groups of ``module`` to ``params``, equal settings merged.

        Args:
            params: List of groups, extended in place.
            module: The whole model, or the backbone alone.
            **kwargs: ``prefix`` and ``is_dcn_module``, which MMEngine passes to submodules.

        Raises:
            UserError: When a backbone has no ``get_layer_depth``.
        """
        if kwargs:  # MMEngine's own recursion into a submodule
            super().add_params(params, module, **kwargs)
            return
        model = unwrap_model(module)
        backbones = find_backbones(model)
        for prefix, backbone in backbones:
            if self.rate < 1 and not hasattr(backbone, "get_layer_depth"):
                raise UserError(
                    f"layer-wise learning-rate decay needs a backbone with get_layer_depth; "
                    f"{type(backbone).__name__} (at {prefix.rstrip('.') or 'the model'}) has none: "
                    f"use a backbone of mmvitconv or mmpretrain, or drop the constructor"
                )
        single_groups: list[dict] = []
        with quiet_logger():  # MMEngine logs a line per parameter
            super().add_params(single_groups, model)
        names = {id(value): name for name, value in model.named_parameters()}

        merged: dict[str, dict] = {}
        for single in single_groups:
            (parameter,) = single.pop("params")
            scale = self._scale(names[id(parameter)], backbones)
            # already part of lr and weight_decay
            settings = {k: v for k, v in single.items() if k not in ("lr_mult", "decay_mult")}
            settings["lr"] = settings.get("lr", self.base_lr) * scale
            if self.base_wd is not None:
                settings.setdefault("weight_decay", self.base_wd)
            settings["lr_scale"] = scale
            group = merged.setdefault(repr(sorted(settings.items())), {"params": [], **settings})
            group["params"].append(parameter)
        params.extend(merged.values())
        lines = [f"layer-wise learning-rate decay {self.rate:g}:"]
        for scale in sorted({group["lr_scale"] for group in merged.values()}):
            groups = [group for group in merged.values() if group["lr_scale"] == scale]
            tensors = sum(len(group["params"]) for group in groups)
            lines.append(
                f"  lr x {scale:.4g} = {self.base_lr * scale:.4g}: {tensors} tensors "
                f"in {len(groups)} group(s)"
            )
        print_log("\n".join(lines), logger="current")

    def _scale(self, name: str, backbones: list[tuple[str, nn.Module]]) -> float:
        """Return the factor on the learning rate of the parameter called ``name``."""
        for prefix, backbone in backbones:
            if name.startswith(prefix):
                if self.rate == 1:
                    return self.factor
                layer, layers = backbone.get_layer_depth(name, prefix)
                return self.factor * self.rate ** (layers - layer - 1)
        return 1.0
