"""One tiny model per task, with a checkpoint, for tests of predictions."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmvitconv.apis import Predictor

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = {
    "classification": ROOT / "configs/fcvit/fcvit_tiny_mnist.py",
    "detection": ROOT / "configs/fcvit/maskrcnn_fcvit_tiny_nuclei.py",
    "segmentation": ROOT / "configs/fcvit/upernet_fcvit_tiny_nuclei.py",
}


def save_checkpoint(task: str, folder: Path, meta: Mapping[str, Any] | None = None) -> Path:
    """Write random weights that give different predictions for different images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = Predictor(CONFIGS[task], device="cpu", fold=False).model
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        for name, parameter in model.named_parameters():
            if name.endswith(("fc.weight", "conv_seg.weight")):
                parameter.normal_(std=0.3)
            elif name.endswith("fc_cls.weight"):
                parameter.normal_(std=0.03)
    file = folder / f"{task}.pth"
    torch.save({"state_dict": model.state_dict(), "meta": dict(meta or {})}, file)
    return file
