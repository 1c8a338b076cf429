"""Predictions in a few lines of Python: ``Predictor(config, checkpoint).predict(images)``."""

from mmvitconv.apis.inference import Predictor
from mmvitconv.apis.output import save_predictions
from mmvitconv.apis.results import Classification, Detection, Prediction, Segmentation

__all__ = [
    "Classification",
    "Detection",
    "Prediction",
    "Predictor",
    "Segmentation",
    "save_predictions",
]
