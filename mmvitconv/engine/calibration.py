"""Images of a config's data that a model is quantised with."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from torch.utils.data import ConcatDataset

from mmvitconv.datasets.layout import find_missing, leaf_datasets
from mmvitconv.errors import UserError
from mmvitconv.runtime.networks import MOST_IMAGES
from mmvitconv.runtime.tracing import quiet

__all__ = ["calibration_batches"]


def calibration_batches(cfg: Config) -> list[dict[str, Any]]:
    """Return images of a config's training data, else of its validation data, as a test sees them.

    They are spread evenly over the data set, and always the same.

    Args:
        cfg: A config with a test pipeline.

    Returns:
        Batches of one image, for the model's ``test_step``; at most 128.

    Raises:
        UserError: There is no such data, or it cannot be read.
    """
    tests = leaf_datasets(cfg.get("test_dataloader"), "test_dataloader")
    pipeline = next((leaf.get("pipeline") for _, leaf in tests), None)
    for split in ("train", "val"):
        leaves = list(leaf_datasets(cfg.get(f"{split}_dataloader"), f"{split}_dataloader"))
        if leaves and not find_missing({**cfg, f"{split}_evaluator": None}, (split,)):
            break
    else:
        raise UserError(
            "the precision 'int8' takes the ranges of values from images of the config's training "
            "or validation data, and neither is there; name it with --cfg-options "
            "train_dataloader.dataset.data_root=/your/path, or choose the precision fp32 or bf16"
        )
    try:
        with DefaultScope.overwrite_default_scope(cfg.default_scope), quiet():
            changes = {"pipeline": pipeline, "test_mode": True}
            images = ConcatDataset(
                [DATASETS.build({**deepcopy(dict(leaf)), **changes}) for _, leaf in leaves]
            )
            chosen = np.linspace(0, len(images) - 1, min(MOST_IMAGES, len(images))).round()
            return [pseudo_collate([images[int(index)]]) for index in chosen]
    except Exception as error:  # data sets and pipelines raise whatever they like
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the {split} data of the config cannot be read to quantise the model with "
            f"({type(error).__name__}: {reason}); mmvitconv check CONFIG looks for what is wrong"
        ) from error
