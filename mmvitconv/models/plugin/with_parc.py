"""Any registered backbone with circular convolutions in the place of some of its layers."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from mmvitconv.models.plugin.replace import replace_with_parc
from mmvitconv.registry import MODELS

_TABLE = "relative_position_bias_table"


@MODELS.register_module(name="WithParC")
def with_parc(
    backbone: Mapping[str, Any],
    stages: int | Sequence[int] | None = None,
    fraction: float | None = None,
    names: str | Sequence[str] | None = None,
    image_size: int | Sequence[int] = 224,
    **options: Any,
) -> nn.Module:
    """Build a backbone and replace layers of it by ParC.

    A function, so that the result is the backbone itself: its attributes, its freezing, its
    ``init_weights`` and the names of what stays are unchanged. ``init_cfg`` belongs into the inner
    dict; a checkpoint of the original fills what stays, and new layers keep their initialisation.

    Args:
        backbone: Config of the inner one, such as ``dict(type='mmdet.ResNet', depth=50)``; types
            without a prefix are looked up in the default scope.
        stages: See :class:`~mmvitconv.models.plugin.DeepStages`; without it and ``names``
            the papers' rule.
        fraction: See there.
        names: Patterns of names instead of ``stages`` and ``fraction``.
        image_size: See :func:`~mmvitconv.models.plugin.replace_with_parc`.
        options: ``position_embedding``, ``bias``, ``instance_kernel`` and ``algorithm``, see there.

    Returns:
        The backbone.

    Raises:
        ValueError: Two rules, an illegal one, or one that fits nothing.

    Examples:
        In a config of mmdet::

            backbone = dict(type="mmvitconv.WithParC", backbone=dict(type="ResNet", depth=50))
    """
    by_stage = {"stages": stages, "fraction": fraction}
    by_stage = {key: value for key, value in by_stage.items() if value is not None}
    if names is not None and by_stage:
        raise ValueError(
            f"names={names!r} and {by_stage} are two rules; give names, or stages and fraction"
        )
    model = MODELS.build(backbone)
    tables = _tables(model)
    rule = by_stage or None if names is None else names
    replace_with_parc(model, rule, image_size, **options)
    tables = {key: table for key, table in tables.items() if key not in _tables(model)}
    if tables and hasattr(model, "init_weights"):
        model.init_weights = partial(_init_weights, model, tables)
    return model


WithParC = with_parc  # the type's name in configs


def _tables(model: nn.Module) -> dict[str, Tensor]:
    return {key: value for key, value in model.state_dict().items() if key.endswith(_TABLE)}


def _init_weights(model: nn.Module, tables: dict[str, Tensor]) -> None:
    """``init_weights`` of a Swin whose attention is partly gone.

    mmdet's looks each position table of the checkpoint up in its own state dict.
    """
    state_dict = {**tables, **model.state_dict()}
    model.state_dict = lambda: state_dict
    try:
        type(model).init_weights(model)
    finally:
        del model.state_dict
