"""Folding a loaded model before it is tested."""

from __future__ import annotations

from mmengine.hooks import EMAHook, Hook
from mmengine.runner import Runner
from torch.distributed.fsdp import FullyShardedDataParallel

from mmvitconv.engine.calibration import calibration_batches
from mmvitconv.engine.modules import unwrap_model
from mmvitconv.registry import HOOKS
from mmvitconv.runtime import accelerate, check_runtime


@HOOKS.register_module()
class FoldHook(Hook):
    """Makes a model fast when a test begins, see :func:`mmvitconv.runtime.accelerate`.

    By default it folds what is exact in inference, and nothing else.

    A model stays as it is where its parameters are exchanged during the test (EMA) or are spread
    over processes (FSDP).

    Args:
        runtime: ``'eager'``, ``'openvino'``, ``'onnxruntime'`` or ``'inductor'``.
        precision: ``'fp32'``, ``'bf16'`` or ``'int8'``, whose ranges come from images of the
            config's training data.

    Raises:
        UserError: The runtime is not installed, or has no such precision.

    Examples:
        >>> custom_hooks = [dict(type="mmvitconv.FoldHook")]
    """

    priority = "LOW"  # after the weights are loaded, before CompileBackboneHook

    def __init__(self, runtime: str = "eager", precision: str = "fp32") -> None:
        check_runtime(runtime, precision)
        self.runtime, self.precision = runtime, precision

    def before_test(self, runner: Runner) -> None:
        """Fold the model in place."""
        if any(isinstance(hook, EMAHook) for hook in runner.hooks) or any(
            isinstance(module, FullyShardedDataParallel) for module in runner.model.modules()
        ):
            runner.logger.info("the model is tested without folding: EMA or FSDP own its weights")
            return
        model = unwrap_model(runner.model).eval()
        images = calibration_batches(runner.cfg) if self.precision == "int8" else None
        accelerate(model, self.runtime, self.precision, inplace=True, calibration=images)
