"""Finding the model behind its wrappers and the backbones inside a model."""

from __future__ import annotations

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn


def unwrap_model(model: nn.Module) -> nn.Module:
    """Return the model inside distributed and test-time-augmentation wrappers.

    Args:
        model: Any module; wrappers may be nested.

    Returns:
        The innermost module that is no wrapper.
    """
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def find_backbones(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """List the backbones of a classifier, detector or segmentor.

    Args:
        model: A model, possibly wrapped. Its backbone is the attribute ``backbone``; in models made
            of several models (teacher and student) every ``*.backbone`` counts. A model without any
            is taken as being the backbone itself.

    Returns:
        Pairs of prefix and backbone. The prefix is that of the parameter names in the unwrapped
        model, with a final dot: ``'backbone.'``, or ``''`` when the model is the backbone.
    """
    model = unwrap_model(model)
    found: list[tuple[str, nn.Module]] = []
    for name, module in model.named_modules():
        inside = any(f"{name}.".startswith(prefix) for prefix, _ in found)
        if name.rpartition(".")[2] == "backbone" and not inside:
            found.append((f"{name}.", module))
    return found or [("", model)]
