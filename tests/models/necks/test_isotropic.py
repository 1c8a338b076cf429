"""The isotropic pyramid: sizes, true strides, and objects that stay where they are."""

import pytest
import torch
from mmdet.models.task_modules.prior_generators import AnchorGenerator
from torch import nn

from mmvitconv.models import ConvMixer, IsotropicPyramid

STRIDES = {
    2: (4, 8, 16, 32),
    4: (4, 8, 16, 32),
    7: (3.5, 7, 14, 28),
    8: (4, 8, 16, 32),
    14: (3.5, 7, 14, 28),
    16: (4, 8, 16, 32),
}


@pytest.mark.parametrize("mode", ["taps", "last"])
@pytest.mark.parametrize("patch_size", STRIDES)
@pytest.mark.parametrize("size", [(1, 1), (13, 20)])
def test_sizes_and_strides(patch_size: int, mode: str, size: tuple[int, int]):
    neck = IsotropicPyramid(16, patch_size, mode)
    outs = neck([torch.randn(2, 16, *size) for _ in range(4)])
    strides = STRIDES[patch_size]
    if mode == "last":
        strides = (*strides, 2 * strides[-1])
    assert neck.strides == strides
    assert len(outs) == len(strides)
    for out, stride in zip(outs, strides, strict=True):
        sides = [-(-n * patch_size // stride) for n in size]
        assert out.shape == (2, neck.out_channels, *sides)
    assert neck.out_channels == (16 if mode == "taps" else 256)


@pytest.mark.parametrize(("patch_size", "deconvs"), [(16, 3), (8, 1), (7, 1), (14, 3), (4, 0)])
def test_parameters_of_the_transposed_convolutions(patch_size: int, deconvs: int):
    dims = 32
    neck = IsotropicPyramid(dims, patch_size)
    layers = [m for m in neck.modules() if isinstance(m, nn.ConvTranspose2d)]
    assert sum(p.numel() for m in layers for p in m.parameters()) == deconvs * (4 * dims**2 + dims)


def test_norms_of_the_taps():
    neck = IsotropicPyramid(8, 16, norm_cfg={"type": "SyncBN"})
    assert isinstance(neck.rescales[0][1], nn.SyncBatchNorm)
    norms = [m for m in IsotropicPyramid(8, 16, "last").modules() if isinstance(m, nn.LayerNorm)]
    assert {norm.eps for norm in norms} == {1e-6}


def test_simple_pyramid_narrows_its_widths():
    neck = IsotropicPyramid(64, 16, "last", out_channels=48)
    assert [project[0].in_channels for project in neck.projections] == [16, 32, 64, 64]
    outs = neck([torch.randn(1, 64, 4, 4)])
    assert all(out.shape[1] == 48 for out in outs)
    torch.testing.assert_close(outs[4], outs[3][..., ::2, ::2])
    mean = outs[0].mean(dim=1)
    torch.testing.assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-5)


@pytest.mark.parametrize("patch_size", [7, 8, 14, 16])
@pytest.mark.parametrize("mode", ["taps", "last"])
def test_an_object_is_found_at_its_true_place(patch_size: int, mode: str):
    """Where the pyramid responds to an object, the anchors of its strides cover the object."""
    torch.manual_seed(0)
    arch = {"embed_dims": 16, "depth": 4, "kernel_size": 1, "patch_size": patch_size}
    backbone = ConvMixer(arch).eval()
    neck = IsotropicPyramid(16, patch_size, mode).eval()
    anchors = AnchorGenerator(strides=list(neck.strides), ratios=[1.0], scales=[1])
    image = torch.zeros(1, 3, 448, 448)
    with_object = image.clone()
    box = torch.tensor([336.0, 112.0, 392.0, 168.0])  # x1 y1 x2 y2; whole patches of 7, 8, 14
    x1, y1, x2, y2 = box.int().tolist()
    with_object[..., y1:y2, x1:x2] = 3.0
    with torch.no_grad():
        empty, full = neck(backbone(image)), neck(backbone(with_object))
    priors = anchors.grid_priors([out.shape[-2:] for out in full], device="cpu")
    for a, b, prior, stride in zip(empty, full, priors, neck.strides, strict=True):
        response = (a - b).abs().sum(dim=1).flatten()
        centres = (prior[:, :2] + prior[:, 2:]) / 2  # an anchor's own centre is its cell's corner
        found = centres[response > 0.05 * response.max()]
        assert len(found)
        low, high = found.min(dim=0).values, found.max(dim=0).values
        margin = max(stride, patch_size) + stride  # a 3x3 convolution and coarse cells
        assert (low >= box[:2] - margin).all()
        assert (high <= box[2:] + margin).all()
        assert (low <= box[:2] + margin).all()
        assert (high >= box[2:] - margin - stride).all()


@pytest.mark.parametrize("mode", ["taps", "last"])
def test_fewer_scales(mode: str):
    torch.manual_seed(0)
    full = IsotropicPyramid(8, 8, mode).eval()
    neck = IsotropicPyramid(8, 8, mode, out_indices=(1, 2, 3)).eval()
    parts = {"rescales", "projections"}
    own = {}
    for key, value in full.state_dict().items():
        part, index, rest = key.split(".", 2)
        if part in parts and index != "0":
            own[f"{part}.{int(index) - 1}.{rest}"] = value
    neck.load_state_dict(own)
    inputs = [torch.randn(1, 8, 6, 5) for _ in range(4)]
    assert neck.strides == full.strides[1:]
    with torch.no_grad():
        for given in (inputs, inputs[1:]):  # all four, or what out_indices asks for
            for a, b in zip(neck(given), full(inputs)[1:], strict=True):
                torch.testing.assert_close(a, b)


def test_wrong_arguments():
    for options, message in (
        ({"in_channels": 8, "patch_size": 8, "mode": "fpn"}, "mode must be .*, got 'fpn'"),
        ({"in_channels": 8, "patch_size": 0}, "patch_size must be a positive"),
        ({"in_channels": 8, "patch_size": 8, "out_indices": (1, 4)}, "of scales 0 to 3"),
        ({"in_channels": 8, "patch_size": 8, "out_indices": (1, 0)}, "increasing order"),
        ({"in_channels": 8, "patch_size": 8, "out_indices": "1"}, "of scales 0 to 3"),
        ({"in_channels": 8, "patch_size": 8, "out_indices": ()}, "of scales 0 to 3"),
        ({"in_channels": 8, "patch_size": 8, "out_channels": 4}, "mode='taps', which keeps the 8"),
        ({"in_channels": [8] * 4, "patch_size": 8}, "in_channels must be a positive integer"),
        (
            {"in_channels": 2, "patch_size": 16, "mode": "last"},
            "in_channels must be .* of 4",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            IsotropicPyramid(**options)
    with pytest.raises(ValueError, match=r"takes 4 maps, or the four .* but got 1"):
        IsotropicPyramid(8, 8)([torch.randn(1, 8, 4, 4)])
