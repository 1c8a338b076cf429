"""What runs the training: hooks, wrappers, optimizer constructor and the command-line tools.

Importing this package registers all of it; MMEngine does so by itself when it meets a type with the
prefix ``mmvitconv.``. OpenMMLab's task packages (mmdet, mmseg, mmpretrain) are not imported here.
"""

from mmvitconv.engine.amp import CPUAmpOptimWrapper
from mmvitconv.engine.checkpoint import SafeCheckpointHook, use_safe_loading
from mmvitconv.engine.compile_backbone import CompileBackboneHook
from mmvitconv.engine.distributed import CPUDistributedDataParallel, prepare_distributed
from mmvitconv.engine.layer_decay import LayerDecayOptimWrapperConstructor

__all__ = [
    "CPUAmpOptimWrapper",
    "CPUDistributedDataParallel",
    "CompileBackboneHook",
    "LayerDecayOptimWrapperConstructor",
    "SafeCheckpointHook",
    "prepare_distributed",
    "use_safe_loading",
]
