"""``torch.compile`` for the backbone alone."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmvitconv.engine.modules import find_backbones
from mmvitconv.registry import HOOKS

MODES = (None, "default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


@HOOKS.register_module()
class CompileBackboneHook(Hook):
    """Compiles the backbone and leaves heads, losses and post-processing as they are.

    Whole detectors break the graph at every data-dependent step; the backbone is a plain function
    of tensors. Compilation is in place: parameters, state-dict keys and the module tree stay.

    Args:
        mode: Mode of ``torch.compile``; ``None`` is its default.
        dynamic: ``True`` compiles for any image size at once, ``False`` once per size, ``None``
            (the default) lets PyTorch turn to dynamic sizes when it meets a second one.
        backend: Backend of ``torch.compile``.

    Raises:
        ValueError: When an argument is not one of the legal values.

    Examples:
        >>> custom_hooks = [dict(type="mmvitconv.CompileBackboneHook", dynamic=True)]
    """

    priority = "VERY_LOW"  # after every hook that copies or changes the model
    keeps_state = False  # its attributes are of one process

    def __init__(
        self, mode: str | None = None, dynamic: bool | None = None, backend: str = "inductor"
    ) -> None:
        if mode not in MODES:
            raise ValueError(f"mode must be one of {MODES}, got {mode!r}")
        if dynamic not in (None, True, False):
            raise ValueError(f"dynamic must be None, True or False, got {dynamic!r}")
        self.mode = mode
        self.dynamic = dynamic
        self.backend = backend
        self.compiled: set[int] = set()

    def before_train(self, runner: Runner) -> None:
        """Compile what is not compiled yet."""
        for prefix, backbone in find_backbones(runner.model):
            if id(backbone) in self.compiled:
                continue
            backbone.compile(mode=self.mode, dynamic=self.dynamic, backend=self.backend)
            self.compiled.add(id(backbone))
            runner.logger.info(
                f"torch.compile: {prefix.rstrip('.') or 'model'} ({type(backbone).__name__}), "
                f"mode={self.mode or 'default'}; the first iterations take longer"
            )

    before_val = before_test = before_train
