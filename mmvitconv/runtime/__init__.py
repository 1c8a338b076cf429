"""What makes a trained model fast in inference and would only hide the formula in a model."""

from mmvitconv.runtime.fold import fold

__all__ = ["fold"]
