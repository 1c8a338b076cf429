"""What makes a trained model fast in inference and would only hide the formula in a model."""

from mmvitconv.runtime.fold import fold
from mmvitconv.runtime.parc import fold_parc, prepare_parc

__all__ = ["fold", "fold_parc", "prepare_parc"]
