"""torch.export, ONNX and TorchScript files of backbones, classifiers and segmentors."""

from mmvitconv.export.check import Check
from mmvitconv.export.quantise import Quantised
from mmvitconv.export.run import ExportReport, export_model

__all__ = ["Check", "ExportReport", "Quantised", "export_model"]
