"""The recipes of the ConvMixer configs against docs/specs/convmixer.md#4-imagenet-recipe,
#5-cifar-10, #6-dense-prediction."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import recipes
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import MODELS, TASK_UTILS, DefaultScope
from recipes import (
    build,
    check_field_settings,
    check_head_and_mixes,
    check_test_pipelines,
    check_training_pipeline,
    decays,
    learning_rates,
    norm_parameters,
)
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

CONFIGS = Path(__file__).resolve().parents[2] / "configs/convmixer"
EPOCHS = {
    "convmixer_1536_20_imagenet": 150,
    "convmixer_768_32_imagenet": 300,
    "convmixer_1024_20_imagenet": 150,
    "convmixer_256_8_cifar10": 25,
}
CIFAR10 = "convmixer_256_8_cifar10"
IMAGENET = [name for name in EPOCHS if name != CIFAR10]
DETECTORS = [
    "maskrcnn_convmixer_768_32_coco",
    "maskrcnn_convmixer_1024_20_coco",
    "retinanet_convmixer_768_32_coco",
]
SEGMENTORS = ["upernet_convmixer_768_32_ade20k", "upernet_convmixer_1536_20_ade20k"]
NUCLEI = "maskrcnn_convmixer_256_8_nuclei"
PRETRAINED = [*DETECTORS, *SEGMENTORS]  # dense and not from scratch
HONEST = "README"  # the README's way to keep patches of 7
BLOCKS = {"1536_20": 20, "768_32": 32, "1024_20": 20, "256_8": 8}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # mmseg's, about its own code


def load(name: str) -> Config:
    if name != HONEST:
        return recipes.load(name)
    text = (CONFIGS / "README.md").read_text("utf-8")
    (snippet,) = re.findall(r'```python\n(_base_ = ".*?)```', text, flags=re.DOTALL)
    base, _, rest = snippet.partition("\n")
    (parent,) = re.findall(r'"\./(\w+)\.py"', base)
    scope: dict = {}
    exec(rest, scope)
    cfg = load(parent)
    cfg.merge_from_dict({"model": scope["model"]})
    return cfg


def pyramid_of(model: nn.Module) -> nn.Module:
    return model.neck[0] if isinstance(model.neck, nn.Sequential) else model.neck


@pytest.mark.parametrize("name", EPOCHS)
def test_schedule(name):
    """Linear from 0 to the peak at 40 %, to a twentieth of it at 80 %, to 0 at the end."""
    cfg, epochs, length = load(name), EPOCHS[name], 20
    assert cfg.train_cfg.max_epochs == epochs
    peak = 0.05 if name == CIFAR10 else 0.01
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(peak)
    rates, total = learning_rates(cfg, length), epochs * length
    corners = [0, 0.4 * epochs, 0.8 * epochs, epochs]
    expected = np.interp(np.arange(total) / length, corners, [0, peak, peak / 20, 0])
    # MMEngine is up to one iteration ahead: it reaches the end of a piece with its last iteration.
    np.testing.assert_allclose(rates, expected, atol=1.01 * peak / (0.4 * total), rtol=0)
    for share, factor in ((0.2, 0.5), (0.4, 1), (0.6, 0.525), (0.8, 0.05), (0.9, 0.025)):
        assert rates[round(share * total)] == pytest.approx(factor * peak, rel=0.02)
    assert rates[0] == pytest.approx(0, abs=1e-5 * peak)
    assert rates[-1] == pytest.approx(0, abs=1e-9)
    assert rates.argmax() in (round(0.4 * total) - 1, round(0.4 * total))


@pytest.mark.parametrize("name", EPOCHS)
def test_schedule_scales_with_the_rate(name):
    """--auto-scale-lr multiplies the rate alone; the curve must follow."""
    cfg = load(name)
    rates = learning_rates(cfg, 2)
    cfg.optim_wrapper.optimizer.lr *= 3
    np.testing.assert_allclose(learning_rates(cfg, 2), 3 * rates, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_settings(name):
    cfg = load(name)
    optimizer, model = cfg.optim_wrapper.optimizer, cfg.model
    assert (optimizer.type, optimizer.eps, optimizer.weight_decay) == ("AdamW", 1e-3, 2e-5)
    assert "betas" not in optimizer, "PyTorch's"
    assert cfg.optim_wrapper.clip_grad == {"max_norm": 1.0}
    assert cfg.train_dataloader.batch_size == 64
    assert cfg.auto_scale_lr.base_batch_size == 10 * 64 == 640
    assert tuple(model.backbone.out_indices) == (-1,)
    assert model.backbone.pad_to_patch is False
    assert "drop_path_rate" not in model.backbone
    check_head_and_mixes(cfg, [("Mixup", 0.5), ("CutMix", 0.5)])
    assert model.head.init_cfg is None
    assert cfg.default_scope == "mmpretrain"


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_pipelines(name):
    check_training_pipeline(load(name), {"bilinear", "bicubic"})
    check_test_pipelines(load(name), math.floor(224 / 0.96))


def test_cifar10_settings():
    cfg = load(CIFAR10)
    optimizer, loader = cfg.optim_wrapper.optimizer, cfg.train_dataloader
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == ("AdamW", 0.05, 0.005)
    assert loader.batch_size == cfg.auto_scale_lr.base_batch_size == 512
    assert (loader.dataset.type, loader.dataset.split) == ("CIFAR10", "train")
    assert cfg.val_dataloader.dataset.split == cfg.test_dataloader.dataset.split == "test"
    assert cfg.model.head.loss == {"type": "CrossEntropyLoss"}
    assert cfg.model.train_cfg is None, "no mixing"
    model = build(cfg)
    assert sum(parameter.numel() for parameter in model.parameters()) == 594_186
    assert not model.data_preprocessor.to_rgb, "the images are RGB"


def test_cifar10_pipelines():
    cfg = load(CIFAR10)
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        train, test = (
            Compose(loader.dataset.pipeline)
            for loader in (cfg.train_dataloader, cfg.test_dataloader)
        )
    augment = train.transforms[2].t
    assert type(augment).__name__ == "RandAugment"
    assert (augment.num_ops, augment.magnitude) == (2, 12)
    assert train.transforms[0].prob == 0.5
    augmented = train({"img": image.copy(), "gt_label": 3})
    assert augmented["inputs"].shape == (3, 32, 32)
    assert augmented["inputs"].dtype == torch.uint8
    plain = test({"img": image.copy(), "gt_label": 3})
    assert torch.equal(plain["inputs"], torch.from_numpy(image).permute(2, 0, 1))
    augment.magnitude, augment.num_ops = 0, 0
    train.transforms[0].prob = 0.0
    unchanged = train({"img": image.copy(), "gt_label": 3})
    assert torch.equal(unchanged["inputs"], plain["inputs"]), "no channels are swapped"


def test_cifar10_of_100_epochs():
    """The authors' jitter and erasing beside what the 25 epochs have; specs/convmixer.md, 5."""
    long, short = load("convmixer_256_8_100epochs_cifar10"), load(CIFAR10)
    assert long.train_cfg.max_epochs == 100
    pipeline = long.train_dataloader.dataset.pipeline
    (jitter,) = (step for step in pipeline if step.type == "torchvision/ColorJitter")
    (erasing,) = (step for step in pipeline if step.type == "RandomErasing")
    assert (jitter.brightness, jitter.contrast, jitter.saturation) == (0.2, 0.2, 0.2)
    assert (erasing.erase_prob, erasing.mode) == (0.2, "const")
    assert erasing.fill_color == short.model.data_preprocessor.mean
    others = [step for step in pipeline if step not in (jitter, erasing)]
    assert others == short.train_dataloader.dataset.pipeline
    assert long.val_dataloader == short.val_dataloader
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        sample = Compose(pipeline)({"img": image, "gt_label": 3})
    assert sample["inputs"].dtype == torch.uint8


@pytest.mark.parametrize("name", [*EPOCHS, *PRETRAINED, NUCLEI])
def test_weight_decay(name):
    cfg = load(name)
    model = build(cfg)
    parameters = dict(model.named_parameters())
    norms = norm_parameters(model)
    in_backbone = {key for key in norms if key.startswith("backbone.")}
    assert len(in_backbone) == 2 * (1 + 2 * BLOCKS[cfg.model.backbone.arch])
    expected: set[str] = set()  # not decayed
    if name in IMAGENET:
        expected = {key for key, parameter in parameters.items() if parameter.ndim == 1}
        assert norms < expected
    elif name in PRETRAINED:
        expected = norms
    found = decays(cfg, model)
    assert {key for key, decay in found.items() if decay == 0} == expected


@pytest.mark.parametrize(
    ("names", "lr", "weight_decay", "length"),
    [(DETECTORS, 1e-4, 0.05, 12), (SEGMENTORS, 6e-5, 0.01, 160_000)],
)
def test_dense_settings(names, lr, weight_decay, length):
    for name in names:
        cfg = load(name)
        backbone = cfg.model.backbone
        check_field_settings(cfg, lr, weight_decay, length)
        assert backbone.norm_eval
        assert backbone.with_cp
        assert backbone.patch_size == (16 if backbone.arch == "1024_20" else 8)
        assert "pad_to_patch" not in backbone, "dense models keep the border"
        text = (CONFIGS / f"{name}.py").read_text("utf-8")
        assert "the authors never tried dense prediction" in text


@pytest.mark.parametrize("name", [*EPOCHS, *PRETRAINED, NUCLEI])
def test_statistics(name):
    model = build(load(name)).train()
    norms = [module for module in model.backbone.modules() if isinstance(module, _BatchNorm)]
    assert {norm.training for norm in norms} == {name not in PRETRAINED}
    assert all(norm.weight.requires_grad and norm.bias.requires_grad for norm in norms)


@pytest.mark.parametrize("name", [*DETECTORS, NUCLEI, HONEST])
def test_strides(name):
    """What the heads believe is what pyramid and FPN give, in pixels of the image."""
    cfg = load(name)
    model = build(cfg)
    pyramid, fpn = model.neck
    assert pyramid.mode == "taps"
    assert pyramid.in_channels == model.backbone.arch.embed_dims
    patch_size = model.backbone.arch.patch_size
    assert set(model.backbone.strides) == {patch_size}
    strides = list(pyramid.strides[fpn.start_level :])
    while len(strides) < fpn.num_outs:
        strides.append(2 * strides[-1])
    head = cfg.model.get("rpn_head") or cfg.model.bbox_head
    assert list(head.anchor_generator.strides) == strides
    # The sizes that COCO's recipes mean, whatever the strides.
    first = 8 if name.startswith("retinanet") else 4
    with DefaultScope.overwrite_default_scope("mmdet"):
        generator = TASK_UTILS.build(head.anchor_generator)
    assert generator.base_sizes == [first * 2**level for level in range(5)]

    # Each map, and so the grid of anchors on it, ends where the image does.
    divisor = cfg.model.data_preprocessor.pad_size_divisor
    assert divisor % max(pyramid.strides) == 0
    size = 2 * divisor * (7 if name == HONEST else 4)
    features = model.extract_feat(torch.empty(1, 3, size, 2 * size, device="meta"))
    shapes = [tuple(feature.shape[2:]) for feature in features]
    assert [(h * s, w * s) for (h, w), s in zip(shapes, strides, strict=True)] == [
        (size, 2 * size)
    ] * 5
    for anchors, (_, width), stride in zip(
        generator.grid_priors(shapes, device="cpu"), shapes, strides, strict=True
    ):
        centres = (anchors[:, :2] + anchors[:, 2:]) / 2
        assert centres.max(0).values.tolist() == pytest.approx(
            [2 * size - stride, size - stride], abs=1e-3
        )
        per_place = len(generator.base_anchors[0])
        second_row = centres[per_place * width]
        assert second_row.tolist() == pytest.approx([0, stride], abs=1e-3)

    if "roi_head" in cfg.model:
        for part in ("bbox", "mask"):
            extractor = getattr(model.roi_head, f"{part}_roi_extractor")
            assert list(extractor.featmap_strides) == strides[:4]
            assert [layer.spatial_scale for layer in extractor.roi_layers] == [
                1 / stride for stride in strides[:4]
            ]
    finest = 3.5 if name == HONEST else first
    assert strides == [finest * 2**level for level in range(5)]


@pytest.mark.parametrize("name", SEGMENTORS)
def test_segmentor_strides(name):
    """UperNet resizes maps, so they must end where the image does, while testing too."""
    cfg = load(name)
    model = build(cfg)
    pyramid = pyramid_of(model)
    assert pyramid.strides == (4, 8, 16, 32)
    assert pyramid.in_channels == model.backbone.arch.embed_dims
    divisor = cfg.model.data_preprocessor.test_cfg.size_divisor
    assert divisor % max(pyramid.strides) == 0
    assert {edge % divisor for edge in cfg.model.data_preprocessor.size} == {0}
    features = model.extract_feat(torch.empty(2, 3, 512, 704, device="meta"))
    assert [tuple(f.shape[2:]) for f in features] == [(512 // s, 704 // s) for s in (4, 8, 16, 32)]
    assert cfg.model.decode_head.in_channels == [pyramid.in_channels] * 4
    assert cfg.model.auxiliary_head.in_channels == pyramid.in_channels


def test_retinanet_makes_no_scale_that_it_does_not_use():
    cfg = load("retinanet_convmixer_768_32_coco")
    pyramid, fpn = build(cfg).neck
    assert pyramid.strides == (8, 16, 32)
    assert len(fpn.lateral_convs) == 3
    assert "find_unused_parameters" not in cfg


def test_released_stem_fits_patches_of_8():
    """A constant image gives the same before and after the stem's kernel is resized."""
    torch.manual_seed(0)
    cfg = {"type": "mmvitconv.ConvMixer", "out_indices": (0,)}
    arch = {"embed_dims": 6, "depth": 1, "kernel_size": 3, "patch_size": 7}
    released, resized = (
        MODELS.build({**cfg, "arch": arch, "patch_size": size}).eval() for size in (7, 8)
    )
    resized.load_state_dict(released.state_dict())
    image = torch.tensor([0.3, -1.2, 0.8]).view(1, 3, 1, 1).expand(1, 3, 56, 56)
    with torch.no_grad():
        one, other = (model.stem(image)[0, :, 0, 0] for model in (released, resized))
    assert resized.stem[0].weight.shape[2:] == (8, 8)
    assert one.std() > 0.05
    # Bicubic weights do not sum up to exactly the same at the borders.
    torch.testing.assert_close(other, one, rtol=0, atol=0.05 * one.std().item())
