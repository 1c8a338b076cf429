"""The operators of the stand-in, by kind.

They carry the names, argument orders and side effects with which ``mmcv/ops/*.py`` calls the
compiled module: tensors by position, numbers by name, and most functions fill tensors that mmcv has
allocated. They run where their inputs are: on CUDA wherever torchvision has a CUDA kernel.

Half precision is computed in float32 and rounded once at the end, because torchvision's CPU
kernels lack bfloat16 (and some float16); float64 stays float64. mmcv's half-precision CUDA kernels
round more often, so results differ from a compiled mmcv by float16 rounding.
"""
