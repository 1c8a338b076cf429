"""When an operator may stand for a layer."""

from torch import nn


def is_plain(layer: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a layer is exactly of one of these kinds and nobody listens to it.

    Inference may then use the layer's parameters without calling it: it was neither replaced (by a
    quantised or adapted one) nor parametrised, and no hook waits for its output.
    """
    return type(layer) in kinds and not (layer._forward_hooks or layer._forward_pre_hooks)
