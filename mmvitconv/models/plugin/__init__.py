"""Circular convolutions in other people's models."""

from mmvitconv.models.plugin.replace import DeepStages, replace_with_parc
from mmvitconv.models.plugin.report import ParCReport, Replacement
from mmvitconv.models.plugin.with_parc import WithParC

__all__ = ["DeepStages", "ParCReport", "Replacement", "WithParC", "replace_with_parc"]
