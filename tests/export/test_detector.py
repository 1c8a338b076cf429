"""A file with a whole model finds what the predictor finds, on images that it has not seen."""

import importlib.util
import json
import re
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch
from torch import nn

from mmvitconv.apis.images import content_of
from mmvitconv.apis.inference import Predictor
from mmvitconv.engine.configuration import load_config
from mmvitconv.errors import UserError
from mmvitconv.export import export_model
from mmvitconv.export.detector import DetectorGraph
from mmvitconv.export.graphs import load_runner
from mmvitconv.runtime import onnxruntime
from mmvitconv.runtime.tracing import write_onnx
from mmvitconv.zoo.loading import load_model

ROOT = Path(__file__).parents[2]
CONFIGS = {path.stem: path for path in (ROOT / "configs").rglob("*.py")}
NAMES = {
    "retinanet_fcvit_tiny_trees": {},
    "maskrcnn_fcvit_tiny_nuclei": {},
}
OTHERS = {
    "cascade_maskrcnn_parc_convnext_xt_3x_coco": {
        "test_dataloader.dataset.pipeline.1.scale": (160, 128)
    },
    "ssdlite_parcnet_s_coco": {},
}
QUICK = "maskrcnn_fcvit_tiny_nuclei"
CASES = [n if n == QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NAMES]


@pytest.fixture(scope="module")
def example():
    """The script that users copy."""
    path = ROOT / "tools" / "deployment" / "run_onnx.py"
    spec = importlib.util.spec_from_file_location("run_onnx", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def save_weights(name: str, path: Path) -> str:
    """Random weights whose scores and masks are far from all thresholds."""
    model = load_model(name, cfg_options=(NAMES | OTHERS)[name], device="cpu").module
    torch.manual_seed(1)
    spreads = {"retina_cls|fc_cls": 0.05, "rpn_cls|conv_logits": 0.5, "predictors.*pointwise": 5.0}
    for key, layer in model.named_modules():
        std = next((std for last, std in spreads.items() if re.search(last, key)), None)
        if std is not None and isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
            torch.nn.init.normal_(layer.weight, std=std)
            torch.nn.init.zeros_(layer.bias)
    torch.save({"state_dict": model.state_dict()}, path)
    return str(path)


def draw(height: int, width: int, seed: int) -> np.ndarray:
    """An image with soft shapes, blue first."""
    small = np.random.default_rng(seed).integers(0, 255, (7, 9, 3), dtype=np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def assert_same(found: dict[str, np.ndarray], expected) -> None:
    """Objects of equal score may change places."""
    assert len(found["scores"]) == len(expected.scores) > 0
    np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-4)
    masks = expected.masks if "masks" in found else None
    for i, box in enumerate(expected.boxes):
        equal = np.flatnonzero(found["labels"] == expected.labels[i])
        far = np.abs(found["boxes"][equal] - box).max(1)
        assert far.min() < 0.01
        if masks is not None and masks[i].any():
            ours = found["masks"][equal[far.argmin()]].astype(bool)
            assert ours.shape == masks[i].shape
            together = (ours | masks[i]).sum()
            # of a small mask one pixel is more than a thousandth
            assert (ours ^ masks[i]).sum() <= max(1, 0.001 * together)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CASES)
def test_objects_are_those_of_the_predictor(name: str, example, tmp_path, runner_state):
    weights = save_weights(name, tmp_path / "w.pth")
    config = load_config(CONFIGS[name])
    options = NAMES[name]
    report = export_model(
        str(CONFIGS[name]),
        weights,
        out=tmp_path / "m.onnx",
        shape=(96, 128),
        preprocess=True,
        cfg_options=options,
    )
    assert report.dynamic == "size"
    predictor = Predictor(config, weights, device="cpu", cfg_options=options)
    for seed, (height, width) in enumerate(((150, 190), (201, 130))):
        image = draw(height, width, seed)
        found = example.predict(str(report.path), image)
        assert list(found)[:3] == ["boxes", "labels", "scores"]
        assert_same(found, predictor.predict(image[..., ::-1], score_threshold=0.0)[0])
    text = report.path.read_bytes()
    assert str(ROOT).encode() not in text
    assert b'File "' not in text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", OTHERS)
def test_graphs_of_other_detectors(name: str, tmp_path, runner_state):
    weights = save_weights(name, tmp_path / "w.pth")
    predictor = Predictor(CONFIGS[name], weights, device="cpu", cfg_options=OTHERS[name])
    graph = DetectorGraph(predictor.model).eval()
    preprocessor, run = predictor.model.data_preprocessor, None
    for seed, (height, width) in enumerate(((150, 190), (201, 130))):
        image = draw(height, width, seed)
        sample, _ = predictor._prepare("image", content_of(image[..., ::-1]))
        images = sample["inputs"].float()
        images = images.flip(0) if preprocessor._channel_conversion else images
        images = ((images - preprocessor.mean) / preprocessor.std)[None]
        inputs = [images, torch.tensor(sample["data_samples"].ori_shape[:2])]
        if run is None:
            axes = {"images": {2: "h", 3: "w"}, **{out: {0: out} for out in graph.outputs}}
            names = ["images", "size"]
            write_onnx(graph, tmp_path / "m.onnx", inputs, names, graph.outputs, axes)
            run = onnxruntime.load(tmp_path / "m.onnx", threads=1)
        found = {out: each.numpy() for out, each in zip(graph.outputs, run(inputs), strict=True)}
        assert_same(found, predictor.predict(image[..., ::-1], score_threshold=0.0)[0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_openvino_and_a_threshold(tmp_path, runner_state):
    weights = save_weights(QUICK, tmp_path / "w.pth")
    inputs = (torch.randn(1, 3, 100, 130), torch.tensor([90, 110]))
    counts = []
    for threshold in (0.0, 0.6):
        out = tmp_path / f"{threshold}.xml"
        report = export_model(
            QUICK, weights, out=out, format="openvino", score_threshold=threshold, shape=(96, 96)
        )
        boxes, labels, scores, masks = load_runner(report.path, "openvino")(*inputs)
        assert len(boxes) == len(labels) == len(scores) == len(masks)
        assert masks.shape[1:] == (90, 110)
        assert (scores >= threshold).all()
        counts.append(len(scores))
    assert counts[1] < counts[0]
    assert report.metadata["score_threshold"] == 0.6
    assert out.with_suffix(".bin").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_segmentor_of_any_size(example, tmp_path, runner_state):
    name = "upernet_fcvit_tiny_nuclei"
    weights = tmp_path / "w.pth"
    torch.save({"state_dict": load_model(name, device="cpu").module.state_dict()}, weights)
    report = export_model(name, weights, out=tmp_path / "m.onnx", shape=(96, 64), preprocess=True)
    assert report.dynamic == "both"
    predictor = Predictor(CONFIGS[name], weights, device="cpu")
    image = draw(137, 171, 0)
    logits = example.predict(str(report.path), image)["logits"][0]
    logits = np.stack([cv2.resize(each, (171, 137)) for each in logits])
    expected = predictor.predict(image[..., ::-1])[0].class_map
    assert (logits.argmax(0) == expected).mean() > 0.999
    stored = {p.key: p.value for p in onnx.load(report.path).metadata_props}
    assert stored["activation"] == "softmax"
    assert json.loads(stored["pipeline"]) == []


@pytest.mark.filterwarnings("ignore")
def test_other_detectors_are_refused(runner_state):
    model = load_model(QUICK, device="cpu").module
    model.roi_head.test_cfg.nms.type = "soft_nms"
    with pytest.raises(UserError, match=r"only detectors with anchors, .* --backbone-only exports"):
        DetectorGraph(model)


@pytest.mark.parametrize("options", [{"batch": 2}, {"int8": True}, {"dynamic": "both"}])
@pytest.mark.filterwarnings("ignore")
def test_what_a_detector_has_not(options: dict, tmp_path, runner_state):
    with pytest.raises(UserError, match="for one image at a time, in float32"):
        export_model(QUICK, out=tmp_path / "x.onnx", **options)
