"""torch.export and ONNX with a dynamic batch, run in onnxruntime."""

import io

import onnx
import onnxruntime
import pytest
import torch
from families import FAMILIES, shallow
from mmengine.registry import MODELS, DefaultScope
from numerics import assert_within, float32_limits
from oracles import reference
from torch import Tensor, nn

from mmvitconv.models import LightViT
from mmvitconv.models.necks import LightViTFPN


def filled(model: nn.Module) -> nn.Module:
    """The model with weights that let every layer matter."""
    model.load_state_dict(reference.fill_like(model.state_dict()))
    return model.eval()


def as_tuple(outs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outs,) if isinstance(outs, Tensor) else tuple(outs)


def assert_exports(model: nn.Module, size: tuple[int, int]) -> None:
    """What is exported at one batch size gives the model's values at others, in both forms."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, *size, generator=generator)
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad():
        program = torch.export.export(model, (x,), dynamic_shapes=({0: batch},))
    file = io.BytesIO()
    # With gradients on, as by default: the lowering must not depend on the mode of the export.
    # onnxruntime optimises the graph again when it loads it; the exporter is slow at it.
    torch.onnx.export(program, dynamo=True, optimize=False, verbose=False).save(file)
    operators = {node.op_type for node in onnx.load_from_string(file.getvalue()).graph.node}
    assert not operators & {"DFT", "STFT"}  # which few runtimes have
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file.getvalue(), options)
    (name,) = (node.name for node in session.get_inputs())
    for count in (1, 3):
        x = torch.randn(count, 3, *size, generator=generator)
        with torch.no_grad():
            expected, exported = as_tuple(model(x)), as_tuple(program.module()(x))
        limits = float32_limits(model, x)  # another runtime adds in another order
        assert_within(exported, expected, limits, "torch.export")
        outs = [torch.from_numpy(out) for out in session.run(None, {name: x.numpy()})]
        assert_within(outs, expected, limits, "ONNX")


@pytest.mark.graph
@pytest.mark.parametrize("name", FAMILIES)
def test_backbone(name: str):
    # LightViT pads all of its maps to whole windows here.
    assert_exports(filled(FAMILIES[name](shallow(name))), (100, 72))


@pytest.mark.graph
def test_lightvit_classifier():
    import mmpretrain.models  # noqa: F401

    with DefaultScope.overwrite_default_scope("mmpretrain"):
        model = MODELS.build(
            {
                "type": "ImageClassifier",
                "backbone": {
                    "type": "mmvitconv.LightViT",
                    "arch": shallow("LightViT"),
                    "out_indices": (2,),
                    "out_type": "raw",
                },
                "neck": {"type": "mmvitconv.LightViTPooling", "in_channels": 256},
                "head": {"type": "LinearClsHead", "in_channels": 1280, "num_classes": 1000},
            }
        )
    # No map is padded, and those of the first two stages have several whole windows.
    assert_exports(filled(model), (224, 224))


@pytest.mark.graph
def test_lightvit_pyramid():
    backbone = LightViT(shallow("LightViT"))
    assert_exports(filled(nn.Sequential(backbone, LightViTFPN(backbone.out_channels))), (56, 28))
