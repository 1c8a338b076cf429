"""When an operator may stand for a layer."""

from torch import nn


def is_plain(layer: nn.Module, *kinds: type[nn.Module]) -> bool:
    """Whether a layer is exactly of one of these kinds and nobody listens to it.

    An operator may then use the layer's parameters without calling it: it was neither replaced (by
    a quantised or adapted one) nor parametrised, and no hook waits for its output or gradient.
    """
    backward_hooks = layer._backward_hooks or layer._backward_pre_hooks
    hooks = layer._forward_hooks or layer._forward_pre_hooks or backward_hooks
    return type(layer) in kinds and not hooks
