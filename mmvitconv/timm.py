"""Importing this module registers every architecture with timm.

Then ``timm.create_model("fcvit_s12", pretrained=True)`` works, and everything that builds on it.
Where timm has a model of the same name already, ours is called ``mmvitconv_NAME``.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from timm.models import register_model

from mmvitconv.models import factory

__all__: list[str] = []

_SETTINGS = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "num_classes",
             "classifier", "url", "license")  # fmt: skip
# What timm's scripts pass to every model, and ours have no use for.
_IGNORED = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "feature_cls",
            "pretrained_strict", "scriptable", "exportable", "no_jit")  # fmt: skip


def _register(name: str) -> None:
    """Register one of our models with timm."""
    theirs = f"mmvitconv_{name}" if timm.is_model(name) else name
    settings = factory.find_entry(name).default_cfg()
    default_cfgs[theirs] = {key: settings[key] for key in _SETTINGS} | {"architecture": theirs}

    def create(pretrained: bool = False, **kwargs: Any) -> torch.nn.Module:
        return _create(name, pretrained, **kwargs)

    create.__name__ = create.__qualname__ = theirs
    create.__doc__ = f"Build mmvitconv's {name}; see :func:`mmvitconv.create_model`."
    register_model(create)


def _create(name: str, pretrained: bool, **kwargs: Any) -> torch.nn.Module:
    """Build a model as timm's scripts ask for it."""
    overlay = kwargs.get("pretrained_cfg_overlay") or {}
    kwargs = {key: value for key, value in kwargs.items() if key not in _IGNORED}
    source = overlay.get("file") or overlay.get("url") or pretrained
    model = factory.create_model(name, source if pretrained else False, **kwargs)
    cfg = model.default_cfg
    if pretrained and cfg["colours"] == "BGR" and cfg["input_size"][0] == 3:
        with torch.no_grad():  # timm's images are RGB
            kernel = model.get_parameter(f"{cfg['first_conv']}.weight")
            kernel.copy_(kernel.flip(1))
    cfg["colours"] = "RGB"
    return model


default_cfgs: dict[str, dict[str, Any]] = {}
for _name in factory.list_models():
    _register(_name)
