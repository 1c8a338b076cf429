"""Folding a loaded model before it is tested."""

from __future__ import annotations

from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch.distributed.fsdp import FullyShardedDataParallel

from mmvitconv.engine.modules import unwrap_model
from mmvitconv.registry import HOOKS
from mmvitconv.runtime import fold


@HOOKS.register_module()
class FoldHook(Hook):
    """Folds what is exact in inference when a test begins, see :func:`mmvitconv.runtime.fold`.

    A model stays as it is where its parameters are exchanged during the test (EMA) or are spread
    over processes (FSDP).

    Examples:
        >>> custom_hooks = [dict(type="mmvitconv.FoldHook")]
    """

    priority = "LOW"  # after the weights are loaded, before CompileBackboneHook

    def before_test(self, runner: Runner) -> None:
        """Fold the model in place."""
        if any(isinstance(hook, EMAHook) for hook in runner.hooks) or any(
            isinstance(module, FullyShardedDataParallel) for module in runner.model.modules()
        ):
            runner.logger.info("the model is tested without folding: EMA or FSDP own its weights")
            return
        fold(unwrap_model(runner.model).eval(), inplace=True)
