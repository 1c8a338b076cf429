"""LightViT's necks against the reference numbers and the literal oracle."""

import json

import pytest
import torch
import torch.nn.functional as F
from oracles import reference
from oracles.lightvit import OracleLightViTFPN, variant
from torch import Tensor, nn

from mmvitconv.models import LightViT
from mmvitconv.models.necks import LightViTFPN, LightViTPooling
from mmvitconv.registry import MODELS
from mmvitconv.weights import convert_state_dict

DETECTION = [name for name in reference.names("lightvit") if "_det_" in name]


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.mark.smoke
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", DETECTION)
def test_reference_numbers(name: str, layout: torch.memory_format):
    ref = reference.read("lightvit", name)
    keys, shapes = (json.loads(str(ref.arrays[f"neck_{part}"])) for part in ("keys", "shapes"))
    converted = convert_state_dict(ref.state_dict, "lightvit")
    backbone, neck = LightViT().eval(), LightViTFPN([64, 128, 256]).eval()
    backbone.load_state_dict({k.removeprefix("backbone."): v for k, v in converted.items()})
    neck.load_state_dict(reference.fill(keys, shapes))  # the same keys as ours
    with torch.no_grad():
        outs = neck(backbone(ref.x.contiguous(memory_format=layout)))
    assert len(outs) == 5
    for i, out in enumerate(outs):
        assert out.shape == tuple(ref.arrays[f"neck{i}_shape"])
        values = out.contiguous().view(-1)[torch.from_numpy(ref.arrays[f"neck{i}_idx"])]
        expected = torch.from_numpy(ref.arrays[f"neck{i}_val"])
        torch.testing.assert_close(values, expected, rtol=0, atol=2e-5)
        assert abs(out.double().mean().item() - ref.arrays[f"neck{i}_mean"]) < 1e-5
        assert abs(out.double().std(correction=0).item() - ref.arrays[f"neck{i}_std"]) < 1e-5


LEGAL = [(4, 0), (4, 1), (5, 0), (5, 1), (5, 2), (6, 0), (6, 1), (6, 2)]


def maps(*sizes: tuple[int, int], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.randn(2, 4 + 2 * i, *size, dtype=dtype) for i, size in enumerate(sizes)]


@pytest.mark.parametrize("sizes", [((8, 12), (4, 6), (2, 3)), ((13, 9), (7, 5), (4, 3))])
@pytest.mark.parametrize(("num_outs", "num_extra"), LEGAL)
def test_equals_the_oracle(num_outs: int, num_extra: int, sizes: tuple[tuple[int, int], ...]):
    """Values, and gradients of all parameters and of the inputs."""
    options = {"num_outs": num_outs, "num_extra_trans_convs": num_extra}
    oracle = OracleLightViTFPN([4, 6, 8], 10, **options).double()
    neck = LightViTFPN([4, 6, 8], 10, **options).double()
    neck.load_state_dict(oracle.state_dict())
    results = []
    features = maps(*sizes)
    for model in (oracle, neck):
        inputs = [x.clone().requires_grad_() for x in features]
        outs = model(inputs)
        sum((out.sin() * (i + 1)).sum() for i, out in enumerate(outs)).backward()
        grads = {name: p.grad for name, p in model.named_parameters()}
        results.append((list(outs), [x.grad for x in inputs], grads))
    torch.testing.assert_close(results[1], results[0], rtol=1e-9, atol=1e-9)
    assert len(results[1][0]) == num_outs
    height, width = sizes[0]
    finest = results[1][0][0]
    assert finest.shape == (2, 10, height * 2**num_extra, width * 2**num_extra)


@pytest.mark.parametrize(("count", "num_extra"), [(1, 0), (2, 1), (4, 1)])
def test_other_numbers_of_inputs(count: int, num_extra: int):
    features = maps(*[(16 >> i, 8 >> i) for i in range(count)])
    channels = [x.shape[1] for x in features]
    options = {"num_outs": 5, "num_extra_trans_convs": num_extra}
    oracle = OracleLightViTFPN(channels, 10, **options).double()
    neck = LightViTFPN(channels, 10, **options).double()
    neck.load_state_dict(oracle.state_dict())
    torch.testing.assert_close(neck(features), oracle(features))


def test_inputs_are_not_changed():
    features = maps((8, 8), (4, 4), (2, 2), dtype=torch.float32)
    before = [x.clone() for x in features]
    with torch.no_grad():
        LightViTFPN([4, 6, 8], 10)(features)
    assert all(map(torch.equal, features, before))


def test_parameter_counts():
    """docs/specs/lightvit.md#5-lightvitfpn."""
    with torch.device("meta"):
        counts = [
            sum(p.numel() for p in LightViTFPN(channels).parameters())
            for channels in ([64, 128, 256], [96, 192, 384])
        ]
    assert counts == [2_738_176, 2_795_520]


def test_initialisation():
    """docs/specs/lightvit.md#5-lightvitfpn: Xavier-uniform, and Kaiming-normal for the transposed
    convolution."""
    neck = LightViTFPN([64, 128, 256], num_outs=6, num_extra_trans_convs=2)
    convs = [m for m in neck.modules() if isinstance(m, nn.Conv2d)]
    transposed = [m for m in neck.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert (len(convs), len(transposed)) == (3 + 3 + 2, 2)
    for conv in convs:
        area = conv.kernel_size[0] ** 2
        bound = (6 / (area * (conv.in_channels + conv.out_channels))) ** 0.5
        assert 0.99 * bound < conv.weight.abs().max() <= bound
        assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    for conv in transposed:
        std = (2 / 1024) ** 0.5
        assert conv.weight.std().item() == pytest.approx(std, rel=0.02)
        assert conv.weight.abs().max() > 3.5 * std  # normal, not uniform
    assert not any(conv.bias.any() for conv in (*convs, *transposed))


def test_init_cfg_is_obeyed():
    neck = LightViTFPN([4], 8, init_cfg={"type": "Constant", "layer": "Conv2d", "val": 3})
    neck.init_weights()
    assert (neck.fpn_convs[0].conv.weight == 3).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_channels": []}, "in_channels must have at least one entry"),
        ({"num_extra_trans_convs": -1}, "num_extra_trans_convs must be at least 0, got .* and -1"),
        ({"num_outs": 3}, "num_outs must be at least 4, for 3 inputs and 1 finer .*got 3"),
        ({"num_outs": 4, "num_extra_trans_convs": 2}, "num_outs must be at least 5, .*got 4"),
        ({"num_outs": 2, "num_extra_trans_convs": 0}, "num_outs must be at least 3, .*got 2"),
    ],
)
def test_wrong_arguments(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        LightViTFPN(**{"in_channels": [4, 6, 8], **options})


@pytest.mark.parametrize("count", [0, 2, 4])
def test_wrong_number_of_inputs(count: int):
    neck = LightViTFPN([4, 6, 8], 10)
    with pytest.raises(ValueError, match=rf"got {count} maps, but in_channels=\(4, 6, 8\)"):
        neck([torch.ones(1, 4, 2, 2)] * count)


def test_pooling_equals_the_oracle():
    oracle = variant("tiny", dense=False).neck
    neck = LightViTPooling(256)
    oracle[1].load_state_dict({k: v + 0.1 for k, v in oracle[1].state_dict().items()})
    neck.fc, neck.norm = oracle[0], oracle[1]
    rows = [torch.randn(2, n, 256) for n in (9, 57)]
    with torch.no_grad():
        outs = neck(rows)
        expected = [oracle(x).mean(dim=1) for x in rows]
    assert isinstance(outs, tuple)
    for a, b in zip(outs, expected, strict=True):
        assert a.shape == (2, 1280)
        torch.testing.assert_close(a, b, rtol=0, atol=2e-6)


def test_pooling_takes_small_inputs_with_the_right_epsilon():
    neck = LightViTPooling(8, 16)
    x = 1e-3 * torch.randn(1, 5, 8)
    expected = F.gelu(F.layer_norm(neck.fc(x), (16,), eps=1e-5)).mean(dim=1)
    torch.testing.assert_close(neck([x])[0], expected)


def test_pooling_initialisation():
    neck = LightViTPooling(256)
    assert neck.fc.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not neck.fc.bias.any()
    assert (neck.norm.weight == 1).all()
    assert not neck.norm.bias.any()


def test_pooling_refuses_maps():
    message = r"takes tokens of shape \(B, N, C\), but got \(1, 4, 3, 3\); .*out_type='raw'"
    with pytest.raises(ValueError, match=message):
        LightViTPooling(4)([torch.ones(1, 4, 3, 3)])


def test_both_are_registered():
    assert MODELS.get("LightViTFPN") is LightViTFPN
    assert MODELS.get("LightViTPooling") is LightViTPooling
