"""What makes a trained model fast in inference and would only hide the formula in a model."""

from mmvitconv.runtime.fold import fold
from mmvitconv.runtime.networks import PRECISIONS, RUNTIMES, accelerate, check_runtime
from mmvitconv.runtime.parc import fold_parc, prepare_parc

__all__ = [
    "PRECISIONS",
    "RUNTIMES",
    "accelerate",
    "check_runtime",
    "fold",
    "fold_parc",
    "prepare_parc",
]
