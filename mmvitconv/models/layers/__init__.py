"""Layers that two families share."""

from mmvitconv.models.layers.residual import ScaledResidual, drop_path_rates

__all__ = ["ScaledResidual", "drop_path_rates"]
