"""Importing this module registers every architecture with timm.

Then ``timm.create_model("fcvit_s12", pretrained=True)`` works, and everything that builds on it.
Where timm has a model of the same name already, ours is called ``mmvitconv_NAME``.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, load_pretrained, register_model, resolve_pretrained_cfg

from mmvitconv.models import factory

__all__: list[str] = []

_SETTINGS = {field.name for field in fields(PretrainedCfg)}
# What timm's functions and scripts pass to every model, and ours have no use for.
_IGNORED = ("cache_dir", "feature_cls", "pretrained_strict", "pretrained_model_args", "scriptable",
            "exportable", "no_jit")  # fmt: skip
_OF_HEADS = ("num_classes", "drop_rate", "global_pool")  # timm's features ignore them in silence
_SAVED_BY_TIMM = ("hf-hub", "local-dir")

default_cfgs: dict[str, dict[str, Any]] = {}


def _register(name: str) -> None:
    """Register one of our models with timm."""
    theirs = f"mmvitconv_{name}" if timm.is_model(name) else name
    settings = factory.find_entry(name).default_cfg() | {"architecture": theirs}
    default_cfgs[theirs] = {key: settings[key] for key in _SETTINGS & settings.keys()}

    def create(pretrained: bool = False, **kwargs: Any) -> torch.nn.Module:
        return _create(name, theirs, pretrained, **kwargs)

    create.__name__ = create.__qualname__ = theirs
    create.__doc__ = f"Build mmvitconv's {name}; see :func:`mmvitconv.create_model`."
    register_model(create)


def _create(
    name: str,
    theirs: str,
    pretrained: bool,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    **kwargs: Any,
) -> torch.nn.Module:
    """Build a model as timm asks for it."""
    cfg = resolve_pretrained_cfg(theirs, pretrained_cfg, pretrained_cfg_overlay)
    ignored = _IGNORED + (_OF_HEADS if kwargs.get("features_only") else ())
    kwargs = {key: value for key, value in kwargs.items() if key not in ignored}
    if cfg.num_classes != factory.NUM_CLASSES and not kwargs.get("features_only"):
        kwargs.setdefault("num_classes", cfg.num_classes)
    is_theirs = cfg.source in _SAVED_BY_TIMM
    source = False if is_theirs or not pretrained else cfg.file or cfg.url or True
    model = factory.create_model(name, source, **kwargs)
    known = model.default_cfg
    if source and known["colours"] == "BGR" and known["input_size"][0] == 3:
        with torch.no_grad():  # timm's images are RGB
            kernel = model.get_parameter(f"{known['first_conv']}.weight")
            kernel.copy_(kernel.flip(1))
    model.default_cfg = known | {"colours": "RGB"}
    own = {key: known[key] for key in ("first_conv", "pool_size", "input_size", "classifier")}
    model.pretrained_cfg = cfg.to_dict() | own
    if pretrained and is_theirs:
        load_pretrained(
            model,
            model.pretrained_cfg,
            num_classes=getattr(model, "num_classes", 0),
            in_chans=known["input_size"][0],
            strict=isinstance(model, factory.Classifier),
        )
    return model


for _name in factory.list_models():
    _register(_name)
