"""What a model costs: multiply-adds and parameters of modules and of whole configs."""

from mmvitconv.analysis.complexity import Complexity, Macs, count_complexity
from mmvitconv.analysis.measure import ConfigComplexity, PartComplexity, measure_config

__all__ = [
    "Complexity",
    "ConfigComplexity",
    "Macs",
    "PartComplexity",
    "count_complexity",
    "measure_config",
]
