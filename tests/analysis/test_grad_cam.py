"""Grad-CAM against its formula, for all that a last layer may give."""

from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmvitconv.analysis.grad_cam import _to_map, draw_class_map, grad_cam
from mmvitconv.analysis.pictures import save_figure
from mmvitconv.errors import CheckpointError, UserError
from mmvitconv.zoo.loading import LoadedModel, load_model
from tests.families import shallow

pytest.importorskip("pytorch_grad_cam")
PIXELS = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
VIT = {"embed_dims": 12, "depth": 3, "num_heads": 3}


def classifier(backbone: dict[str, Any], channels: int, **model: Any) -> Config:
    return Config(
        {
            "default_scope": "mmpretrain",
            "model": {
                "type": "ImageClassifier",
                "data_preprocessor": {"mean": [33.0] * 3, "std": [79.0] * 3, "to_rgb": True},
                "backbone": backbone,
                "neck": {"type": "GlobalAveragePooling"},
                "head": {"type": "LinearClsHead", "in_channels": channels, "num_classes": 4},
                **model,
            },
            "test_pipeline": [
                {"type": "LoadImageFromFile"},
                {"type": "Resize", "scale": (96, 64)},
                {"type": "PackInputs"},
            ],
        }
    )


def fcvit(**options: Any) -> Config:
    arch = shallow("FCViT")
    backbone = {"type": "mmvitconv.FCViT", "arch": arch, "out_indices": (3,), **options}
    return classifier(backbone, arch["embed_dims"][-1])


def segmentor() -> Config:
    arch = shallow("FCViT")
    return Config(
        {
            "default_scope": "mmseg",
            "model": {
                "type": "EncoderDecoder",
                "data_preprocessor": {
                    "type": "SegDataPreProcessor", "mean": [99.0] * 3, "std": [50.0] * 3,
                    "bgr_to_rgb": True, "size": (64, 64),
                },
                "backbone": {"type": "mmvitconv.FCViT", "arch": arch},
                "decode_head": {
                    "type": "FCNHead", "in_channels": arch["embed_dims"][-1], "in_index": 3,
                    "channels": 8, "num_classes": 3, "num_convs": 1,
                },
            },
            "test_pipeline": [
                {"type": "LoadImageFromFile"},
                {"type": "Resize", "scale": (64, 64)},
                {"type": "LoadAnnotations"},
                {"type": "PackSegInputs"},
            ],
        }
    )  # fmt: skip


def load(cfg: Config, checkpoint: Any = None, **options: Any) -> LoadedModel:
    return load_model(cfg, checkpoint, init_weights=False, **options)


def test_a_pooled_classifier_follows_the_formula():
    loaded = load(fcvit(), seed=1)
    model = loaded.module
    found = grad_cam(loaded, PIXELS, target=2)
    assert loaded.classes == ()
    assert (found.target, found.name, found.layer) == (2, "class 2", "backbone")
    resized = cv2.resize(PIXELS, (96, 64))
    assert np.array_equal(found.source, resized)
    inputs = torch.from_numpy((resized.astype(np.float32) - 33) / 79).permute(2, 0, 1)[None]
    with torch.no_grad():
        (features,) = model.backbone(inputs)
        score = model(inputs, mode="tensor")[0].softmax(0)[2]
    assert found.score == pytest.approx(float(score), rel=1e-4)
    weight = model.head.fc.weight[2].detach()
    cam = torch.einsum("c,chw->hw", weight, features[0]).relu().numpy()
    cam = (cam - cam.min()) / (cam.max() - cam.min())
    np.testing.assert_allclose(found.values, cv2.resize(cam, (96, 64)), atol=1e-3)
    assert not model.backbone._forward_hooks


def test_the_predicted_class_is_the_default():
    loaded = load(fcvit())
    scores = [grad_cam(loaded, PIXELS, target).score for target in range(4)]
    found = grad_cam(loaded, PIXELS)
    assert found.target == int(np.argmax(scores))
    assert sum(scores) == pytest.approx(1)


@pytest.mark.parametrize(
    ("backbone", "channels", "model"),
    [
        (
            {"type": "mmvitconv.DynConvViT", "arch": VIT, "out_indices": (2,), "img_size": 64},
            12, {},
        ),
        (
            {"type": "mmvitconv.DynConvViT", "arch": VIT, "out_indices": (2,), "img_size": 64,
             "with_cls_token": True, "out_type": "cls_token"},
            12, {"neck": None},
        ),
        (
            {"type": "mmvitconv.LightViT", "arch": shallow("LightViT"), "out_indices": (2,),
             "out_type": "raw"},
            shallow("LightViT")["embed_dims"][-1],
            {"neck": {"type": "mmvitconv.LightViTPooling",
                      "in_channels": shallow("LightViT")["embed_dims"][-1],
                      "out_channels": shallow("LightViT")["embed_dims"][-1]}},
        ),
        (
            {"type": "mmvitconv.ParCConvNeXt", "arch": shallow("ParCConvNeXt"),
             "out_indices": (3,), "gap_before_final_norm": True},
            shallow("ParCConvNeXt")["embed_dims"][-1], {"neck": None},
        ),
    ],
    ids=["map", "class token", "raw tokens", "averaged"],
)  # fmt: skip
def test_every_kind_of_output(backbone: dict, channels: int, model: dict):
    cfg = classifier(backbone, channels, **model)
    built = load(cfg)
    maps = [grad_cam(built, PIXELS, target).values for target in range(4)]
    assert {values.shape for values in maps} == {(64, 96)}
    assert sum(values.max() > 0.9 for values in maps) >= 2  # a class may be seen nowhere
    assert all(values.min() >= 0 for values in maps)


def test_layers_are_chosen_and_mistakes_named():
    cfg = fcvit()
    loaded = load(cfg)
    model = loaded.module
    found = grad_cam(loaded, PIXELS, 0, "backbone.stages.1")
    assert found.layer == "backbone.stages.1.0"  # the stage's last block: lists never run
    by_norm = grad_cam(loaded, PIXELS, 0, "backbone.norm3").values
    np.testing.assert_allclose(by_norm, grad_cam(loaded, PIXELS, 0).values, atol=1e-4)
    assert abs(found.values - by_norm).max() > 0.1
    with pytest.raises(UserError, match=r"no layer 'backbone.stagess'; give a name such as"):
        grad_cam(loaded, PIXELS, 0, "backbone.stagess")
    with pytest.raises(UserError, match="is not a map; give the name of a layer with a map"):
        grad_cam(loaded, PIXELS, 0, "head.fc")
    with pytest.raises(
        UserError, match=r"no class 'dog'; give a number from 0 to 3 or a name \(cat"
    ):
        grad_cam(replace(loaded, classes=("cat",)), PIXELS, "dog")
    with pytest.raises(UserError, match="no class 4"):
        grad_cam(loaded, PIXELS, 4)
    assert not any(module._forward_hooks for module in model.modules())


def test_a_lightvits_blocks_are_refused():
    channels = shallow("LightViT")["embed_dims"][-1]
    arch = shallow("LightViT")
    backbone = {"type": "mmvitconv.LightViT", "arch": arch, "out_indices": (2,)}
    cfg = classifier(backbone, channels)
    loaded = load(cfg)
    with pytest.raises(UserError, match=r"order of windows.*'backbone.norm2'"):
        grad_cam(loaded, PIXELS, 0, "backbone.stages.0.0")
    assert grad_cam(loaded, PIXELS, 1, "backbone.norm2").values.shape == (64, 96)


def test_layouts_of_maps():
    x = torch.arange(2 * 3 * 5.0).view(1, 2, 3, 5)
    sides = (24, 40)
    assert _to_map(x, sides, (8,), "a") is x
    assert torch.equal(_to_map(x.permute(0, 2, 3, 1), sides, (8,), "a"), x)
    tokens = torch.cat([torch.zeros(1, 4, 2), x.flatten(2).transpose(1, 2)], dim=1)
    assert torch.equal(_to_map(tokens, sides, (8,), "a"), x)


def test_a_segmentor_shows_what_its_pixels_depend_on():
    cfg = segmentor()
    loaded = load(cfg)
    model = loaded.module
    found = grad_cam(loaded, PIXELS)
    assert found.values.shape == (64, 64)
    assert 1 / 3 <= found.score <= 1
    assert found.source.shape == (64, 64, 3)
    with torch.no_grad():
        model.decode_head.conv_seg.bias[1] -= 1e3
    with pytest.raises(UserError, match="no pixel is predicted as 'class 1'; predicted are"):
        grad_cam(loaded, PIXELS, 1)


def test_weights_and_names_come_from_the_checkpoint(tmp_path):
    saved = load(fcvit(), seed=5)
    meta = {"dataset_meta": {"classes": ("a", "b", "c", "d")}}
    content = {"state_dict": saved.module.state_dict(), "meta": meta}
    torch.save(content, tmp_path / "best.pth")
    loaded = load(fcvit(), tmp_path / "best.pth")
    assert loaded.classes == ("a", "b", "c", "d")
    first, second = grad_cam(saved, PIXELS, 3), grad_cam(loaded, PIXELS, "d")
    assert second.name == "d"
    assert np.array_equal(first.values, second.values)
    with pytest.raises(CheckpointError, match=r"best.pth does not hold the weights"):
        load(segmentor(), tmp_path / "best.pth")


def test_a_config_in_the_style_of_mmpretrain():
    inside, outside = fcvit(), fcvit()
    outside.data_preprocessor = outside.model.pop("data_preprocessor")
    outside.model.init_cfg = [
        {"type": "Constant", "layer": "LayerNorm", "val": 1.0},
        {"type": "Pretrained", "checkpoint": "https://missing.invalid/a.pth"},
    ]
    dataset = {"type": "CIFAR10", "pipeline": outside.pop("test_pipeline")}
    outside.test_dataloader = {"dataset": {"type": "RepeatDataset", "dataset": dataset}}
    before = outside.to_dict()
    loaded, other = load(outside), load(inside)
    assert outside.to_dict() == before
    assert loaded.classes[:2] == ("airplane", "automobile")
    found = grad_cam(loaded, PIXELS, 1)
    assert found.name == "automobile"
    assert np.array_equal(found.values, grad_cam(other, PIXELS, 1).values)
    with pytest.raises(UserError, match="give a number from 0 to 3"):
        grad_cam(loaded, PIXELS, "truck")  # the model has no such class
    with pytest.raises(UserError, match="'toaster' cannot be used"):
        load(inside, device="toaster")


def test_random_weights_follow_the_seed():
    state = torch.get_rng_state()
    first, same, other = (load(fcvit(), seed=seed).module.state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    key = "head.fc.weight"
    assert torch.equal(first[key], same[key])
    assert not torch.equal(first[key], other[key])


def test_arrays_of_a_data_set_have_red_first():
    cfg = fcvit()
    cfg.test_pipeline = [{"type": "CenterCrop", "crop_size": 32}, {"type": "PackInputs"}]
    cfg.model.data_preprocessor.to_rgb = False
    loaded = load(cfg)
    model = loaded.module
    seen = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    found = grad_cam(loaded, PIXELS, 0)
    assert np.array_equal(found.source, PIXELS[9:41, 19:51])
    expected = (found.source.astype(np.float32) - 33) / 79
    np.testing.assert_allclose(seen[0][0].permute(1, 2, 0).numpy(), expected, atol=1e-5)


def test_other_tasks_are_refused():
    detector = LoadedModel(torch.nn.Identity(), "a", "", task="detection")
    with pytest.raises(UserError, match="for classifiers and segmentors"):
        grad_cam(detector, PIXELS)
    with pytest.raises(UserError, match="no model"):
        load(Config({"default_scope": "mmpretrain"}))


def test_picture(tmp_path):
    found = grad_cam(load(fcvit()), PIXELS, 1)
    path = save_figure(draw_class_map(found, "note"), tmp_path / "new" / "a.png")
    assert path.stat().st_size > 10_000
