"""The recipes of the LightViT configs against docs/specs/lightvit.md#8-published-recipes."""

import math

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.registry import DefaultScope
from mmengine.structures import InstanceData
from recipes import (
    build,
    check_field_settings,
    check_head_and_mixes,
    check_step_schedule,
    check_test_pipelines,
    decays,
    learning_rates,
    load,
    norm_parameters,
)
from timm.data import auto_augment
from torch.nn.modules.batchnorm import _BatchNorm

IMAGENET = [f"lightvit_{arch}_imagenet" for arch in ("tiny", "small", "base")]
MASKRCNN = [
    f"maskrcnn_lightvit_{arch}_{schedule}coco"
    for schedule in ("", "3x_")
    for arch in ("tiny", "small", "base")
]
DENSE = [
    *MASKRCNN,
    *(f"retinanet_lightvit_{arch}_coco" for arch in ("tiny", "small")),
    *(f"upernet_lightvit_{arch}_ade20k" for arch in ("tiny", "small", "base")),
]
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # mmseg's, about its own code
BLOCKS = {"tiny": 14, "small": 14, "base": 17}


@pytest.mark.parametrize("name", [*IMAGENET, *DENSE])
def test_decay_exemptions(name):
    cfg = load(name)
    model = build(cfg)
    parameters = dict(model.named_parameters())
    tables = {name for name in parameters if name.endswith(".attn.relative_position_bias_table")}
    norms = norm_parameters(model)
    blocks = BLOCKS[cfg.model.backbone.arch]
    expected = {*tables, *norms, "backbone.patch_embed.global_token"}
    # Stem and its norm; three in each block; two in each merge; those of the outputs.
    outputs = 1 if name in IMAGENET else 3
    in_backbone = {name for name in norms if name.startswith("backbone.")}
    assert len(in_backbone) == 2 * (4 + 1 + 3 * blocks + 2 * 2 + outputs)
    assert len(tables) == blocks
    if name in IMAGENET:
        expected |= {name for name, parameter in parameters.items() if parameter.ndim == 1}
        expected |= {name for name in parameters if name.endswith(".bias")}

    assert {name for name, decay in decays(cfg, model).items() if decay == 0} == expected


@pytest.mark.parametrize("name", [*IMAGENET, *DENSE])
def test_statistics_of_the_stem(name):
    model = build(load(name))
    model.train()
    norms = [module for module in model.backbone.modules() if isinstance(module, _BatchNorm)]
    assert len(norms) == 4
    assert {norm.training for norm in norms} == {name in IMAGENET}
    assert all(norm.weight.requires_grad and norm.bias.requires_grad for norm in norms)
    assert model.backbone.training


def imagenet_rate(epoch: float) -> float:
    """docs/specs/lightvit.md#8-published-recipes: linear from 1e-7 in 20 steps of an epoch, then a
    cosine to 1e-6 at 300."""
    if epoch < 20:
        return 1e-7 + (1e-3 - 1e-7) * math.floor(epoch) / 20
    return 1e-6 + (1e-3 - 1e-6) * (1 + math.cos(math.pi * (epoch - 20) / 280)) / 2


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_schedule(name):
    epoch_length = 4
    rates = learning_rates(load(name), epoch_length, 300 * epoch_length + 1)
    assert rates[0] == pytest.approx(1e-7)
    assert rates[10 * epoch_length] == pytest.approx(5.0005e-4)
    assert rates[20 * epoch_length] == pytest.approx(1e-3)
    for epoch in (0, 10, 20, 150):
        assert rates[epoch * epoch_length] == pytest.approx(imagenet_rate(epoch), rel=1e-6)
    # What no iteration uses any more is not updated: one iteration short of epoch 300.
    assert rates[300 * epoch_length] == pytest.approx(imagenet_rate(300), rel=0.01)
    expected = [imagenet_rate(step / epoch_length) for step in range(300 * epoch_length)]
    np.testing.assert_allclose(rates[:-1], expected, rtol=1e-6)


@pytest.mark.parametrize("name", MASKRCNN)
def test_maskrcnn_schedule(name):
    check_step_schedule(load(name), *((36, (27, 33)) if "_3x_" in name else (12, (8, 11))))


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_settings(name):
    cfg = load(name)
    optimizer, model = cfg.optim_wrapper.optimizer, cfg.model
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", 1e-3, 0.04)
    assert "betas" not in optimizer, "PyTorch's"
    assert "clip_grad" not in cfg.optim_wrapper
    assert cfg.auto_scale_lr.base_batch_size == 8 * 128 == 8 * cfg.train_dataloader.batch_size
    assert cfg.train_cfg.max_epochs == 300
    assert model.backbone.drop_path_rate == (0.3 if model.backbone.arch == "base" else 0.1)
    check_head_and_mixes(cfg, [("Mixup", 0.2), ("CutMix", 1.0)])
    crop, flip, erasing = (cfg.train_dataloader.dataset.pipeline[index] for index in (1, 2, 4))
    assert (crop.type, crop.scale, crop.interpolation) == ("RandomResizedCrop", 224, "bicubic")
    assert (flip.type, flip.prob) == ("RandomFlip", 0.5)
    assert (erasing.type, erasing.erase_prob, erasing.mode) == ("RandomErasing", 0.25, "rand")
    check_test_pipelines(cfg, 256)


@pytest.mark.parametrize("name", MASKRCNN)
def test_maskrcnn_settings(name):
    cfg = load(name)
    check_field_settings(cfg, 2e-4, 0.04, 36 if "_3x_" in name else 12)
    assert "clip_grad" not in cfg.optim_wrapper
    assert cfg.model.backbone.drop_path_rate == 0.1
    assert cfg.model.neck.type == "mmvitconv.LightViTFPN"
    assert cfg.model.rpn_head.anchor_generator.strides == [4, 8, 16, 32, 64]
    assert cfg.model.data_preprocessor.pad_size_divisor == 32
    assert cfg.val_dataloader.dataset.pipeline[1].scale == (1333, 800)
    kinds = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert kinds[3 if "_3x_" in name else 2] == ("RandomChoice" if "_3x_" in name else "Resize")


def test_rand_augment_is_that_of_timm():
    cfg = load(IMAGENET[0])
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        (augment,) = Compose([cfg.train_dataloader.dataset.pipeline[3]]).transforms
    reference = auto_augment.rand_augment_transform("rand-m9-mstd0.5", {})
    assert augment.num_policies == reference.num_layers == 2
    names = [operation.name for operation in reference.ops]
    renamed = {"Color": "ColorTransform", "TranslateRel": "Translate"}
    for operation, policy, name in zip(augment, augment.policies, names, strict=True):
        direction = {"horizontal": "X", "vertical": "Y"}.get(policy.get("direction"), "")
        kind = name.replace(direction, "") if direction else name
        assert policy["type"] == renamed.get(kind, kind)
        assert direction in name
        assert operation.prob == 0.5
        level_to_arg = auto_augment.LEVEL_TO_ARG[name]
        assert ("magnitude_range" in policy) == (level_to_arg is not None)
        if level_to_arg is None:
            continue
        assert (operation.magnitude_level, operation.magnitude_std) == (9, 0.5)
        for level in (7.8, 9.0, 9.9):
            operation.magnitude_level, operation.magnitude_std = level, 0.0
            magnitude = operation.random_magnitude()
            expected = abs(level_to_arg(level, {})[0])
            if policy["type"] == "Posterize":
                magnitude = math.ceil(magnitude)  # as mmpretrain does
            elif policy["type"] in ("ColorTransform", "Contrast", "Brightness", "Sharpness"):
                magnitude += 1
                assert operation.random_negative_prob == 0
            elif policy["type"] in ("Solarize", "SolarizeAdd"):
                magnitude = int(magnitude)  # pixels are whole numbers
            else:
                assert operation.random_negative_prob == 0.5
            assert magnitude == pytest.approx(expected), name


def test_several_scales():
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    cfg = load("maskrcnn_lightvit_tiny_3x_coco")
    pipeline = cfg.train_dataloader.dataset.pipeline[2:]
    with DefaultScope.overwrite_default_scope("mmdet"):
        augment = Compose(pipeline)
    shorts = set(range(480, 801, 32))
    seen, cropped = set(), 0
    state = np.random.get_state()
    np.random.seed(0)
    try:
        for _ in range(60):
            sample = augment(
                {
                    "img": np.zeros((480, 640, 3), np.uint8),
                    "img_shape": (480, 640),
                    "ori_shape": (480, 640),
                    "img_id": 0,
                    "img_path": "",
                    "gt_bboxes": HorizontalBoxes(torch.tensor([[4.0, 4.0, 600.0, 440.0]])),
                    "gt_bboxes_labels": np.zeros(1, np.int64),
                    "gt_ignore_flags": np.zeros(1, bool),
                    "gt_masks": BitmapMasks([np.ones((480, 640), np.uint8)], 480, 640),
                }
            )
            height, width = sample["inputs"].shape[1:]
            instances: InstanceData = sample["data_samples"].gt_instances
            assert instances.masks.masks.shape[1:] == (height, width)
            assert instances.bboxes.tensor[:, 2].max() <= width
            assert max(height, width) <= 1333
            assert min(height, width) in shorts or max(height, width) == 1333
            seen.add(min(height, width))
            cropped += abs(width / height - 640 / 480) > 0.01
    finally:
        np.random.set_state(state)
    assert len(seen & shorts) >= 9
    assert 20 <= cropped <= 40, "about every second image"
