"""One way from names, configs and files to models."""

from pathlib import Path

import mmpretrain
import pytest
import torch

from mmvitconv.errors import CheckpointError, UserError
from mmvitconv.zoo.loading import load_model

UPSTREAM = Path(mmpretrain.__file__).parent / ".mim/configs/resnet/resnet18_8xb32_in1k.py"


@pytest.mark.parametrize("name", ["fcvit_tiny", "FCViT:tiny", "mmvitconv.FCViT tiny"])
def test_an_architecture_in_any_spelling(name):
    loaded = load_model(name, device="meta")
    assert (loaded.name, loaded.config, loaded.task) == ("FCViT:tiny", None, None)
    assert loaded.module.out_channels == (32, 64, 160, 320)
    assert not loaded.module.training
    assert next(loaded.module.parameters()).is_meta


def test_a_config_whole_and_its_backbone():
    whole = load_model("mask-rcnn_fcvit-tiny_fpn_1x_coco", device="meta")
    assert (whole.name, whole.task, whole.shape) == (
        "maskrcnn_fcvit_tiny_coco",
        "detection",
        (800, 1280),
    )
    assert whole.classes[0] == "person"
    backbone = load_model("maskrcnn_fcvit_tiny_coco", part="backbone", device="meta").module
    assert type(backbone) is type(whole.module.backbone)
    options = {"model.backbone.out_indices": (0, 1)}
    cut = load_model("fcvit_tiny_mnist", part="backbone", cfg_options=options, device="cpu")
    assert len(cut.module.out_channels) == 2
    assert cut.config.model.backbone.out_indices == (0, 1)


def test_a_config_of_another_package(tmp_path):
    loaded = load_model(UPSTREAM, device="cpu", seed=1)
    assert (loaded.name, loaded.shape, loaded.is_rgb) == ("resnet18_8xb32_in1k", (224, 224), True)
    assert loaded.weights == "random weights, seed 1"
    state = {key: value + 1 for key, value in loaded.module.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "a.pth")
    for part, prefix in (("model", ""), ("backbone", "backbone.")):
        again = load_model(UPSTREAM, tmp_path / "a.pth", part=part, device="cpu")
        assert again.weights == "weights of a.pth"
        for key, value in again.module.state_dict().items():
            assert torch.equal(value, state[prefix + key]), key
    torch.save({"state_dict": {"head.fc.weight": torch.ones(3)}}, tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match=r"b\.pth does not hold the weights"):
        load_model(UPSTREAM, tmp_path / "b.pth", device="cpu")


def test_timm_whole_and_its_maps():
    pytest.importorskip("timm")
    whole = load_model("timm:resnet10t", device="meta")
    assert (whole.shape, whole.in_channels) == ((176, 176), 3)
    maps = load_model("timm:resnet10t", part="backbone", device="meta").module
    assert len(maps(torch.empty(1, 3, 64, 64, device="meta"))) == 5


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ("fcvit_tiny", {"cfg_options": {"a": 1}}, "is an architecture"),
        ("fcvit_tiny", {"checkpoint": "a.pth", "device": "meta"}, "'meta' holds no weights"),
        ("fcvit_tinny", {}, "did you mean FCViT tiny"),
        ("fcvit_tiny_mnist", {"device": "toaster"}, "'toaster' cannot be used"),
        ("missing.py", {}, "no config file 'missing.py'"),
        ("timm:resnett10t", {}, "timm has no model 'resnett10t'"),
    ],
)
def test_mistakes_are_one_sentence(source, options, words):
    with pytest.raises(UserError, match=words):
        load_model(source, **{"device": "cpu", **options})
