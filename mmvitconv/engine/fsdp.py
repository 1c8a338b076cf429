"""Fully sharded data parallel training (FSDP) where MMEngine's own does not work."""

from __future__ import annotations

import torch
from mmengine._strategy.fsdp import FSDPStrategy as EngineFSDPStrategy
from mmengine.model import revert_sync_batchnorm
from mmengine.model.wrappers import MMFullyShardedDataParallel
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from mmvitconv.registry import MODEL_WRAPPERS, STRATEGIES


@STRATEGIES.register_module()
class FSDPStrategy(EngineFSDPStrategy):
    """MMEngine's strategy, whose resuming goes by an order of arguments that PyTorch has changed.

    Args:
        *args: Arguments of ``mmengine._strategy.FSDPStrategy``.
        **kwargs: The same.

    Examples:
        >>> strategy = dict(type="mmvitconv.FSDPStrategy")
    """

    def load_optim_state_dict(self, state_dict: dict) -> None:
        """Load the state of the optimizer as it was saved."""
        own = FullyShardedDataParallel.optim_state_dict_to_load(
            model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=state_dict
        )
        self.optim_wrapper.load_state_dict(own)


@MODEL_WRAPPERS.register_module()
class CPUFullyShardedDataParallel(MMFullyShardedDataParallel):
    """MMEngine's FSDP wrapper for a model that lives on the CPU.

    MMEngine's strategy always passes the number of a GPU.

    Args:
        module: The model to train; its SyncBN layers are replaced in place.
        **kwargs: Arguments of ``MMFullyShardedDataParallel``; ``device_id`` is replaced.

    Examples:
        >>> model_wrapper = dict(type="mmvitconv.CPUFullyShardedDataParallel")
    """

    def __init__(self, module: nn.Module, **kwargs) -> None:
        kwargs["device_id"] = torch.device("cpu")
        super().__init__(module=revert_sync_batchnorm(module), **kwargs)
