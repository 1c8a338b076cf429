"""Calibration images of a config: training data as a test sees it, spread, always the same."""

import logging
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope

from mmvitconv.apis.inference import Predictor
from mmvitconv.engine.calibration import calibration_batches
from mmvitconv.engine.configuration import load_config
from mmvitconv.engine.folding import FoldHook
from mmvitconv.errors import UserError
from mmvitconv.zoo.loading import load_model

TINY = {"embed_dims": 16, "depth": 1, "kernel_size": 3, "patch_size": 5}


@pytest.fixture
def digits(mnist_root: Path):
    cfg = load_config("convmixer_256_8_mnist")
    for split in ("train", "val", "test"):
        cfg[f"{split}_dataloader"].dataset.data_root = str(mnist_root)
    cfg.model.backbone.arch = TINY
    cfg.model.head.in_channels = TINY["embed_dims"]
    return cfg


def paths(batches: list[dict]) -> list[str]:
    return [sample.img_path for batch in batches for sample in batch["data_samples"]]


def test_training_images_are_spread_over_the_data_set(digits):
    batches = calibration_batches(digits)
    found = [Path(path).parts[-3:-1] for path in paths(batches)]
    assert {split for split, _ in found} == {"train"}
    assert len(found) == 128
    assert set(Counter(digit for _, digit in found).values()) <= {12, 13, 14}
    assert DefaultScope.get_current_instance() is None


def test_images_are_not_augmented_and_always_the_same(nuclei_root: Path, capsys):
    cfg = load_config("maskrcnn_fcvit_tiny_nuclei")
    for split in ("train", "val"):
        cfg[f"{split}_dataloader"].dataset.data_root = str(nuclei_root)
    one, other = (calibration_batches(cfg) for _ in range(2))
    assert 10 < len(one) < 128
    assert len(set(paths(one))) == len(one)
    for a, b in zip(one, other, strict=True):
        assert torch.equal(*(batch["inputs"][0] for batch in (a, b)))
    assert capsys.readouterr().out == ""


def test_validation_images_where_training_images_are_absent(digits):
    digits.train_dataloader.dataset.data_root = "nowhere"
    assert {Path(path).parts[-3] for path in paths(calibration_batches(digits))} == {"val"}


def test_no_images_at_all(digits):
    digits.train_dataloader.dataset.data_root = "nowhere"
    digits.val_dataloader = None
    with pytest.raises(UserError, match="neither is there; name it with --cfg-options train_data"):
        calibration_batches(digits)


def test_images_that_cannot_be_read(digits, tmp_path: Path):
    for digit in map(str, range(10)):
        (tmp_path / "train" / digit).mkdir(parents=True)
        (tmp_path / "train" / digit / "0.png").write_bytes(b"no image")
    digits.train_dataloader.dataset.data_root = str(tmp_path)
    with pytest.raises(UserError, match=r"the train data of the config cannot be read to quantise"):
        calibration_batches(digits)


@pytest.mark.filterwarnings("ignore:.*no checkpoint, so the weights are random")
def test_a_predictor_in_8_bits(digits, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path))
    image = np.random.default_rng(0).integers(0, 255, (28, 28, 3), dtype=np.uint8)
    plain, small = (
        Predictor(digits, device="cpu", **options).predict(image, top_k=10)[0]
        for options in ({}, {"runtime": "openvino", "precision": "int8"})
    )
    assert list(tmp_path.rglob("*.xml"))
    expected, found = (dict(zip(p.names, p.scores, strict=True)) for p in (plain, small))
    # three layers whose inputs and weights have an error of 0.9 % each, see tests/runtime
    assert max(abs(found[name] - expected[name]) for name in expected) < 0.05
    assert found != expected


def test_a_test_in_8_bits(digits, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("MMVITCONV_HOME", str(tmp_path))
    model = load_model(digits, device="cpu").module
    images = model.data_preprocessor(calibration_batches(digits)[5], False)["inputs"]
    with torch.no_grad():
        (expected,) = model.backbone(images)
    runner = SimpleNamespace(model=model, hooks=(), logger=logging.getLogger("test"), cfg=digits)
    FoldHook("openvino", "int8").before_test(runner)
    with torch.no_grad():
        (found,) = model.backbone(images)
    assert 1e-4 < float((found - expected).norm() / expected.norm()) < 0.1
