"""Reading checkpoints safely, and the original authors' layouts turned into ours."""

from mmvitconv.weights.convert import convert_state_dict, list_layouts
from mmvitconv.weights.files import load_file
from mmvitconv.weights.match import adapt_checkpoint, check_match, check_values, load_backbone

__all__ = [
    "adapt_checkpoint",
    "check_match",
    "check_values",
    "convert_state_dict",
    "list_layouts",
    "load_backbone",
    "load_file",
]
