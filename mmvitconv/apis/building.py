"""What :mod:`mmvitconv.analysis.grad_cam` builds with, until it uses ``load_model``."""

from __future__ import annotations

from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS

from mmvitconv.apis.images import build_pipeline
from mmvitconv.engine.quiet import quiet_logger
from mmvitconv.errors import CheckpointError, UserError
from mmvitconv.weights import adapt_checkpoint, check_match
from mmvitconv.zoo.loading import choose_device, model_settings, read_names

__all__ = ["build_model", "build_pipeline", "choose_device", "read_names"]


def build_model(
    cfg: Config,
    content: dict[str, Any] | None,
    source: str,
    seed: int = 0,
    init_weights: bool = True,
) -> torch.nn.Module:
    """Build the model of a config with all of its weights.

    Args:
        cfg: The config; it stays as it is.
        content: The checkpoint; None for random weights.
        source: Where the checkpoint is, for messages.
        seed: Of random weights.
        init_weights: Draw random weights as ``init_cfg`` says; else they stay as the layers draw
            them.

    Returns:
        The model, on the CPU.

    Raises:
        UserError: When the settings make no model.
        CheckpointError: When keys or shapes do not match.
    """
    # The model is built on the CPU: the generators of GPUs are neither seeded nor read.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        try:
            model = revert_sync_batchnorm(MODELS.build(model_settings(cfg)))
        except (KeyError, TypeError, ValueError) as error:  # what registries and models raise
            raise UserError(f"the model of this config cannot be built: {error}") from error
        if content is None:
            if init_weights:
                with quiet_logger():  # it would list every parameter
                    model.init_weights()
            return model
    try:
        state_dict = adapt_checkpoint(content, model)["state_dict"]
        check_match(state_dict, model, source=source)
    except CheckpointError as error:
        raise CheckpointError(
            f"{source} does not hold the weights of this config's model: {error}"
        ) from error
    model.load_state_dict(state_dict)
    return model
