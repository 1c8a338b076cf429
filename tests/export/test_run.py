"""Files of every format give what the model gives, and say what to feed."""

import json
import logging
import os
import signal
import time
from pathlib import Path

import onnx
import pytest
import torch
from families import FAMILIES, shallow
from numerics import assert_within, float32_limits
from torch import nn

from mmvitconv.errors import CheckpointError, UserError
from mmvitconv.export import export_model, run
from mmvitconv.export.check import find_least_side
from mmvitconv.export.graphs import FORMATS, load_runner, read_opset, write_graph
from mmvitconv.export.run import export_subject
from mmvitconv.export.subject import Subject, backbone_subject, fill_statistics, load_subject

CONFIGS = Path(__file__).parents[2] / "configs"
MNIST = str(CONFIGS / "convmixer" / "convmixer_256_8_mnist.py")
NUCLEI = str(CONFIGS / "fcvit" / "upernet_fcvit_tiny_nuclei.py")
DETECTOR = str(CONFIGS / "fcvit" / "maskrcnn_fcvit_tiny_nuclei.py")


@pytest.fixture(autouse=True)
def _no_trace_records(caplog) -> None:
    """PyTorch would write a record for each node for pytest's log."""
    caplog.set_level(logging.CRITICAL, logger="torch.__trace")


def small(name: str) -> Subject:
    """A family's shallow backbone in which every layer counts."""
    torch.manual_seed(0)
    backbone = FAMILIES[name](shallow(name)).eval()
    fill_statistics(backbone)
    return backbone_subject(backbone, name, (64, 48))


@pytest.fixture(scope="module")
def digits_config(tmp_path_factory) -> str:
    """The digits' config with one block."""
    path = tmp_path_factory.mktemp("config") / "digits.py"
    path.write_text(
        f"_base_ = [{MNIST!r}]\n"
        f"model = dict(backbone=dict(arch=dict(_delete_=True, **{shallow('ConvMixer')})))\n"
    )
    return str(path)


@pytest.fixture(scope="module")
def nuclei_config(tmp_path_factory) -> str:
    """The segmentor's config with one block in each stage."""
    path = tmp_path_factory.mktemp("config") / "nuclei.py"
    path.write_text(
        f"_base_ = [{NUCLEI!r}]\n"
        f"model = dict(backbone=dict(arch=dict(_delete_=True, **{shallow('FCViT')})))\n"
    )
    return str(path)


def save_weights(config: str, path: Path, **meta) -> str:
    module = load_subject(config).module
    torch.save({"state_dict": module.model.state_dict(), "meta": meta}, path)
    return str(path)


CASES = [*(("ConvMixer", format) for format in FORMATS), ("DynConvViT", "onnx")]


@pytest.mark.graph
@pytest.mark.parametrize(("name", "format"), CASES)
def test_backbone_takes_any_batch_and_size(name: str, format: str, tmp_path):
    subject = small(name)
    report = export_subject(subject, tmp_path / "file", format)
    assert report.dynamic == "both"
    assert report.difference < 1e-5
    assert {(check.batch, check.shape) for check in report.checks} >= {
        (1, (64, 48)),
        (2, (97, 131)),
    }
    runner = load_runner(report.path, format)
    for shape in ((5, 3, 61, 77), (1, 3, report.least_side, 90)):
        x = torch.randn(shape)
        with torch.no_grad():
            expected = subject.module(x)
        assert_within(runner(x), expected, float32_limits(subject.module, x))


@pytest.mark.graph
def test_what_cannot_be_had_is_said_and_left_out(tmp_path):
    subject = small("LightViT")
    with pytest.raises(
        UserError, match=r"a dynamic image size cannot be had as torch: .*--dynamic"
    ):
        export_subject(subject, tmp_path / "file.pt2", "torch", dynamic="size")
    report = export_subject(subject, tmp_path / "file.pt2", "torch")
    assert report.dynamic == "batch"
    (note,) = report.notes
    assert note.startswith("a dynamic batch and image size cannot be had as torch")
    assert {check.batch for check in report.checks} == {1, 2, 3}
    beside = json.loads((tmp_path / "file.pt2.json").read_text())
    assert beside["strides"] == [8, 16, 32]
    assert sorted(os.listdir(tmp_path)) == ["file.pt2", "file.pt2.json"]


@pytest.mark.graph
def test_classifier_with_weights(digits_config, tmp_path):
    weights = save_weights(
        digits_config, tmp_path / "w.pth", dataset_meta={"classes": ["zero", "éins"]}
    )
    said: list[str] = []
    report = export_model(
        digits_config, weights, out=tmp_path / "new" / "m.onnx", shape=(28, 28), say=said.append
    )
    assert said
    assert report.dynamic == "both"
    assert report.checks[0].shape == (28, 28)
    model = onnx.load(report.path)
    stored = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(stored["mean"]) == [33.0] * 3
    assert json.loads(stored["std"]) == [79.0] * 3
    assert json.loads(stored["classes"]) == ["zero", "éins"]
    assert stored["channel_order"] == "RGB"
    assert [node.name for node in model.graph.output] == ["logits"]
    x = torch.randn(4, 3, 28, 28)
    module = load_subject(digits_config, weights).module
    with torch.no_grad():
        expected = module.model(x, mode="tensor")
    logits = load_runner(report.path, "onnx")(x)
    assert_within(logits, [expected], float32_limits(module, x))


@pytest.mark.graph
def test_segmentor_gives_logits_at_the_size_of_the_image(nuclei_config, tmp_path):
    subject = load_subject(nuclei_config)
    x = torch.randn(2, 3, 64, 80)
    with torch.no_grad():
        expected = subject.module.model.encode_decode(x, [{"img_shape": x.shape[2:]}])
    report = export_subject(subject, tmp_path / "m.onnx", shape=(64, 80), dynamic="batch", batch=2)
    (logits,) = load_runner(report.path, "onnx")(x)
    assert logits.shape == (2, 2, 64, 80)
    assert_within([logits], [expected], float32_limits(subject.module, x))
    assert report.metadata["classes"] == ["background", "nucleus"]


def test_what_is_fed_is_the_configs_own():
    fed = {name: load_subject(name).metadata for name in ("parcnet_xs_imagenet", MNIST)}
    assert fed["parcnet_xs_imagenet"]["channel_order"] == "BGR"
    assert fed[MNIST]["channel_order"] == "RGB"
    steps = [step["type"] for step in fed["parcnet_xs_imagenet"]["pipeline"]]
    assert steps == ["ResizeEdge", "CenterCrop"]
    assert fed["parcnet_xs_imagenet"]["activation"] == "softmax"
    assert load_subject("ConvMixer 256_8").metadata.keys().isdisjoint({"mean", "channel_order"})


def test_the_name_of_a_config_is_the_whole_model():
    assert load_subject("fcvit_tiny_mnist").outputs == ("logits",)
    assert load_subject("fcvit_tiny").outputs[0].startswith("features")


def test_a_window_that_slides_is_said(nuclei_config):
    slide = {"model.test_cfg": {"mode": "slide", "crop_size": (64, 64), "stride": (32, 32)}}
    notes = load_subject(nuclei_config, cfg_options=slide).notes
    assert any("slides a window" in note for note in notes)


def test_a_head_that_takes_more_than_maps_is_one_sentence(digits_config, tmp_path):
    subject = load_subject(digits_config)
    subject.module.model.head.forward = lambda feats, data_samples: feats
    with pytest.raises(UserError, match="--backbone-only exports its backbone"):
        export_subject(subject, tmp_path / "file")


class FromSide33(nn.Module):
    """A model that refuses small images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] < 33 or x.shape[3] < 33:
            raise ValueError("too small")
        return x * 2


def test_sides_that_the_model_refuses_are_passed_over():
    def make(*sizes: int) -> tuple[torch.Tensor]:
        return (torch.zeros(sizes[0], 3, *sizes[1:]),)

    assert find_least_side(lambda x: [x * 2], FromSide33(), make) == 33


def test_a_try_that_nobody_asked_for_ends(tmp_path, monkeypatch):
    asked = []

    def write(module, format, path, example, axes, *rest) -> None:
        asked.append(axes["images"])
        while axes["images"] == (0, 2, 3):
            try:
                time.sleep(0.01)
            except Exception:  # as tracers do
                continue
        signal.alarm(0)  # the other tries may take as long as they take
        write_graph(module, format, path, example, axes, *rest)

    monkeypatch.setattr(run, "TIME_LIMIT", 1)
    monkeypatch.setattr(run, "write_graph", write)
    before = signal.getsignal(signal.SIGALRM)
    report = export_subject(small("ConvMixer"), tmp_path / "file", "torchscript")
    assert (asked, report.dynamic) == ([(0, 2, 3), (0,)], "batch")
    assert "takes longer than 1 s" in report.notes[-1]
    assert signal.getsignal(signal.SIGALRM) is before


@pytest.mark.graph
def test_opset_and_fixed_file(tmp_path):
    report = export_subject(small("ConvMixer"), tmp_path / "m.onnx", opset=18, dynamic="none")
    assert (report.opset, read_opset(report.path), report.dynamic) == (18, 18, "none")
    with pytest.raises(Exception, match="INVALID_ARGUMENT"):
        load_runner(report.path, "onnx")(torch.randn(1, 3, 64, 64))


@pytest.mark.graph
def test_int8_is_smaller_and_close(tmp_path):
    report = export_subject(small("DynConvViT"), tmp_path / "m.onnx", dynamic="batch", int8=True)
    assert report.int8.size < 0.6
    assert 0 < report.int8.relative < 0.1
    assert report.int8.cosine > 0.99
    x = torch.randn(2, 3, 64, 48)
    (out,) = load_runner(report.path, "onnx")(x)
    assert out.isfinite().all()
    operators = {node.op_type for node in onnx.load(report.path).graph.node}
    assert "MatMulInteger" in operators


class Moody(nn.Module):
    """Gives another value while it is traced."""

    def forward(self, x):
        return x * (2.0 if torch.jit.is_tracing() else 1.0)


@pytest.mark.graph
def test_a_wrong_file_fails_and_is_kept(tmp_path):
    out = tmp_path / "file"
    out.write_text("old")
    subject = Subject(Moody(), 3, ("x",), (8, 8), {"source": "moody"})
    with pytest.raises(UserError, match=r"1 x 8 x 8: differs by .* \(1.0e\+00 .*file.failed"):
        export_subject(subject, out, "torchscript", dynamic="none")
    assert out.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["file", "file.failed"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("convmixer_999",), "convmixer_999"),
        (("nowhere/config.py",), "there is no config file"),
        ((DETECTOR,), "post-processing of detectors .* onnx or openvino .* --backbone-only exp"),
        (("convmixer_256_8", "nowhere.pth"), "nowhere.pth"),
    ],
)
def test_illegal_sources(arguments, message: str, tmp_path):
    with pytest.raises(UserError, match=message):
        export_model(*arguments, out=tmp_path / "x", format="torchscript")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "tflite"}, "give one of torch, onnx, openvino, torchscript"),
        ({"format": "openvino"}, "--format openvino writes a file .xml"),
        ({"preprocess": True}, "--preprocess is for configs"),
        ({"dynamic": "all"}, "give one of batch, size, both, none"),
        ({"shape": (0, 3)}, r"both positive, got \(0, 3\)"),
        ({"batch": 0}, "--batch must be a positive integer, got 0"),
        ({"opset": 7}, "--opset must be 18 to"),
        ({"opset": 18, "format": "torch"}, "--opset is for --format onnx"),
        ({"int8": True, "format": "torch"}, "--int8 is for --format onnx"),
        ({"cfg_options": {"a": 1}}, "is an architecture"),
    ],
)
def test_illegal_options(options: dict, message: str, tmp_path):
    with pytest.raises(UserError, match=message):
        export_model("convmixer_256_8", **{"out": tmp_path / "x", **options})


def test_checkpoint_of_another_family(tmp_path):
    weights = tmp_path / "w.pth"
    torch.save({"state_dict": FAMILIES["LightViT"](shallow("LightViT")).state_dict()}, weights)
    with pytest.raises(CheckpointError, match=r"w\.pth"):
        export_model("convmixer_256_8", weights, out=tmp_path / "x")


def test_places_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="is a folder; give a file"):
        export_model("convmixer_256_8", out=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_model("convmixer_256_8", out=tmp_path / "file" / "x.onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime"])
def test_missing_package(package: str, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(
        UserError, match=rf"needs {package}; run: pip install 'mmvitconv\[export\]'"
    ):
        export_model("convmixer_256_8", out=tmp_path / "x")


def test_the_page_has_every_family():
    page = (CONFIGS.parent / "docs" / "export.md").read_text("utf-8")
    for name in FAMILIES:
        assert [f"| {name} " in line for line in page.splitlines()].count(True) >= len(FORMATS)
