"""Whoever looks at a backbone from outside sees the same values: hooks, TorchScript, torch.func."""

import copy
import io
from collections.abc import Callable

import pytest
import torch
from families import FAMILIES, shallow
from mmcv.cnn.utils import fuse_conv_bn
from oracles import reference
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.utils.parametrize import register_parametrization
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils import _pytree as pytree
from torchvision.models.feature_extraction import create_feature_extractor

from mmvitconv.models.layers.mixers.base import Mixer
from mmvitconv.models.layers.mixers.presets import MIXERS

SIZE = (72, 40)


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> nn.Module:
    """The family's smallest architecture in float64, with weights that let every layer matter."""
    model = FAMILIES[request.param](shallow(request.param))
    model.load_state_dict(reference.fill_like(model.state_dict()))
    return model.double().eval()


def images(batch: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, *SIZE, generator=generator, dtype=torch.float64)


def clone(x: object) -> object:
    return x.clone() if isinstance(x, Tensor) else x


def total(outs: tuple[Tensor, ...]) -> Tensor:
    return sum(out.sin().sum() for out in outs)


def assert_same(
    outs: tuple[Tensor, ...], expected: tuple[Tensor, ...], tolerance: float = 1e-10
) -> None:
    for out, other in zip(outs, expected, strict=True):
        torch.testing.assert_close(out, other, rtol=0, atol=tolerance * other.abs().max().item())


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::FutureWarning")
def test_trace(model: nn.Module):
    """As people type it: with gradients on. The file holds no Python function.

    A trace computes with sizes in float32 (a factor for a mean, say), so it is as good as that.
    """
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(model, images(2)), buffer)
    buffer.seek(0)
    assert_same(torch.jit.load(buffer)(images(2, seed=1)), model(images(2, seed=1)), 1e-6)


# LightViT and DynConvSwin cut maps into windows, of which a symbolic trace does not know how many.
@pytest.mark.parametrize("model", sorted({*FAMILIES} - {"DynConvSwin", "LightViT"}), indirect=True)
def test_symbolic_trace(model: nn.Module):
    """torch.fx, and torchvision's features of a layer: for images of any size."""
    traced = torch.fx.symbolic_trace(model)
    assert_same(traced(images(2)), model(images(2)), 0)
    layer = model.last_block(model.num_stages - 1)
    kept = []
    model.get_submodule(layer).register_forward_hook(lambda _, args, out: kept.append(out))
    model(images(2))
    features = create_feature_extractor(model, {layer: "map"})
    found = features(images(2))["map"]
    expected = kept[0][0] if isinstance(kept[0], tuple) else kept[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    features.train()(images(2))["map"].sin().sum().backward()
    assert model.get_submodule(layer).training is False  # it is a copy that trains


@pytest.mark.parametrize("mixer", sorted({*MIXERS} - {"natt", "swin"}))
def test_symbolic_trace_of_each_mixer(mixer: str):
    """All mixers that see the whole map or a few neighbours: those of windows ask for sizes."""
    model = FAMILIES["DynConvViT"](shallow("DynConvViT"), mixer=mixer)
    model.load_state_dict(reference.fill_like(model.state_dict()))
    model.double().eval()
    traced = torch.fx.symbolic_trace(model)
    for x in (images(2), images(1)[..., :24]):
        assert_same(traced(x), model(x), 0)


@pytest.mark.parametrize("grad", [False, True])
def test_hooks(model: nn.Module, grad: bool):
    """Each layer is called, and what a hook kept is what the layer gives."""
    kept: dict[str, tuple[nn.Module, tuple, dict, Tensor]] = {}

    def keep(name: str) -> Callable:
        return lambda module, args, kwargs, out: kept.update(
            {name: (module, args, kwargs, pytree.tree_map(clone, out))}
        )

    expected = model(images(2))
    watched = {name: module for name, module in model.named_modules() if name}
    for name, module in model.named_modules():  # lists; and mixers, whose blocks call mix()
        if isinstance(module, (nn.ModuleList, nn.ModuleDict, Mixer)):
            watched.pop(name)
    handles = [
        module.register_forward_hook(keep(name), with_kwargs=True)
        for name, module in watched.items()
    ]
    with torch.set_grad_enabled(grad):
        assert_same(model(images(2)), expected)
    for handle in handles:
        handle.remove()
    assert set(kept) == set(watched)
    for module, args, kwargs, out in kept.values():
        if not any(module.children()) and not getattr(module, "inplace", False):
            torch.testing.assert_close(module(*args, **kwargs), out)


@pytest.mark.parametrize("model", ["ConvMixer", "DynConvViT", "FCViT", "LightViT"], indirect=True)
def test_backward_hooks(model: nn.Module):
    """In families whose activations work in place torch refuses these hooks."""
    seen: list[str] = []
    watched = {n for n, m in model.named_modules() if n and list(m.parameters(recurse=False))}
    for name in watched:
        layer = model.get_submodule(name)
        layer.register_full_backward_hook(lambda *args, name=name: seen.append(name))
    total(model(images(2).requires_grad_())).backward()
    assert set(seen) == watched


def test_vmap(model: nn.Module):
    x = images(3)
    outs = vmap(lambda image: model(image[None]))(x)
    assert_same(tuple(out.squeeze(1) for out in outs), model(x))


def test_gradients_of_each_sample(model: nn.Module):
    x, parameters = images(2), dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], image: Tensor) -> Tensor:
        return total(functional_call(model, parameters, (image[None],)))

    ours = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for index in range(2):
        expected = torch.autograd.grad(total(model(x[index : index + 1])), parameters.values())
        assert_same(tuple(g[index] for g in ours.values()), expected)


@pytest.mark.parametrize("dual", [False, True])
def test_forward_mode(model: nn.Module, dual: bool):
    """The directional derivative is the gradient's product with the direction."""
    x, direction = images(2).requires_grad_(), images(2, seed=1)
    expected = (torch.autograd.grad(total(model(x)), x)[0] * direction).sum()
    if dual:
        with forward_ad.dual_level():
            out = total(model(forward_ad.make_dual(x, direction)))
            tangent = forward_ad.unpack_dual(out).tangent
    else:
        _, tangent = jvp(lambda x: total(model(x)), (x,), (direction,))
    torch.testing.assert_close(tangent, expected, rtol=1e-9, atol=0)


class LowRank(nn.Module):
    """A linear layer that is kept, plus a product of two small matrices, as LoRA has it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Linear(base.in_features, 2, bias=False, dtype=torch.float64)
        self.up = nn.Linear(2, base.out_features, bias=False, dtype=torch.float64)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x))


LINEAR = ("DynConvSwin", "DynConvViT", "FCViT", "LightViT", "ParCConvNeXt")


@pytest.mark.parametrize("model", LINEAR, indirect=True)
def test_wrapped_linear_layers(model: nn.Module):
    """No layer is passed by: each new matrix gets a gradient and changes what comes out."""
    expected = model(images(2))
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    for name in linear:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, LowRank(model.get_submodule(name)))
    assert_same(model(images(2)), expected)
    total(model(images(2))).backward()
    for name in linear:
        assert model.get_submodule(name).up.weight.grad.any(), name
        assert model.get_submodule(name).base.weight.grad is None


class Twice(nn.Module):
    """Doubles a weight."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def test_parametrised_weights(model: nn.Module):
    twin = copy.deepcopy(model)
    for module in twin.modules():
        if isinstance(getattr(module, "weight", None), nn.Parameter):
            module.weight.data *= 2
    for module in [*model.modules()]:
        if isinstance(getattr(module, "weight", None), nn.Parameter):
            register_parametrization(module, "weight", Twice())
    assert_same(model(images(2)), twin(images(2)))


def test_moving_average_and_data_parallel(model: nn.Module):
    """Without GPUs DataParallel passes calls on."""
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5), use_buffers=True)
    averaged.update_parameters(model)
    first = {name: p.detach().clone() for name, p in model.named_parameters()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    averaged.update_parameters(model)
    for name, parameter in averaged.module.named_parameters():
        torch.testing.assert_close(parameter, 2 * first[name])
    model.load_state_dict(averaged.module.state_dict())
    expected = model(images(2))
    assert_same(averaged(images(2)), expected)
    assert_same(nn.DataParallel(model)(images(2)), expected)


@pytest.mark.parametrize("is_emptied", [False, True])
def test_meta_device(model: nn.Module, is_emptied: bool):
    """Buffers that no state dict has are computed again."""
    with torch.device("meta"):
        twin = type(model)(shallow(type(model).__name__)).double().eval()
    if is_emptied:
        twin.to_empty(device="cpu")
    twin.load_state_dict(model.state_dict(), assign=True)
    assert_same(twin(images(2)), model(images(2)), 0)


def test_fusing_convolutions_and_norms(model: nn.Module):
    """What mmcv folds, as ``--fuse-conv-bn`` does, it folds rightly."""
    expected = model(images(2))
    assert_same(fuse_conv_bn(model)(images(2)), expected)
