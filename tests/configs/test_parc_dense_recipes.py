"""The recipes of ParC's detectors and segmentors against docs/specs/parc.md#6-published-recipes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import MODELS, DefaultScope
from recipes import (
    build,
    check_step_schedule,
    learning_rates,
    load,
    norm_parameters,
    parameter_groups,
)
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

CONFIGS = Path(__file__).resolve().parents[2] / "configs/parc"
CONVNETS = ("parc_convnext_xt", "parc_resnet50", "parc_mobilenetv2")
CASCADE = "cascade_maskrcnn_parc_convnext_xt_3x_coco"
MASKRCNN = [f"maskrcnn_{backbone}_coco" for backbone in CONVNETS]
RETINANET = ["retinanet_parc_convnext_xt_coco", "retinanet_parcnet_s_coco"]
DETECTORS = [CASCADE, *MASKRCNN, "maskrcnn_parcnet_s_coco", *RETINANET]
UPERNET = [f"upernet_{backbone}_ade20k" for backbone in CONVNETS]
SEGMENTORS = [*UPERNET, "upernet_parcnet_s_ade20k"]
NUCLEI = "maskrcnn_parcnet_xs_nuclei"
LAYER_DECAY = [CASCADE, "maskrcnn_parc_convnext_xt_coco"]
PARCNETS = sorted(  # those of the other test files too
    path.stem for path in CONFIGS.glob("*_parcnet_*.py") if not path.stem.endswith("_imagenet")
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # mmseg's, about its own code


def settings(model: nn.Module, optim_wrapper: dict, scope: str) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of each trained parameter, by its full name."""
    groups = parameter_groups(model, optim_wrapper, scope)
    return {name: (group["lr"], group["weight_decay"]) for name, group in groups.items()}


@pytest.mark.parametrize("name", DETECTORS)
def test_detection_schedule(name):
    check_step_schedule(load(name), *((36, (27, 33)) if name == CASCADE else (12, (8, 11))))


@pytest.mark.parametrize("name", [*DETECTORS, *SEGMENTORS])
def test_optimizer(name):
    cfg = load(name)
    rate, decay = {
        **dict.fromkeys([CASCADE, *MASKRCNN], (2e-4, 0.05)),
        **dict.fromkeys(["maskrcnn_parcnet_s_coco", *RETINANET], (1e-4, 0.05)),  # the field's
        **dict.fromkeys(UPERNET, (1e-4, 0.05)),
        "upernet_parcnet_s_ade20k": (6e-5, 0.01),  # the field's
    }[name]
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.weight_decay) == ("AdamW", decay)
    assert optimizer.lr == pytest.approx(rate)
    assert cfg.optim_wrapper.type == "OptimWrapper", "no mixed precision"
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.auto_scale_lr.base_batch_size == 8 * 2


@pytest.mark.parametrize("name", LAYER_DECAY)
def test_decay_is_that_of_the_field(name):
    """Over ConvNeXt's six layers, with the exemptions of mmdet's own constructor."""
    cfg = load(name)
    model = build(cfg)
    found = settings(model, cfg.optim_wrapper, "mmdet")
    reference = {
        "type": "OptimWrapper",
        "optimizer": {"type": "AdamW", "lr": 2e-4, "weight_decay": 0.05},
        "constructor": "LearningRateDecayOptimizerConstructor",
        "paramwise_cfg": {"num_layers": 6, "decay_rate": 0.7, "decay_type": "layer_wise"},
    }
    expected = settings(model, reference, "mmdet")
    assert set(found) == set(expected) == {key for key, _ in model.named_parameters()}
    for key, (own_rate, own_decay) in expected.items():
        assert found[key] == pytest.approx((own_rate, own_decay)), key
    for key, power, own_decay in (
        ("downsample_layers.0.0.weight", 7, 0.05),
        ("stages.3.2.pwconv1.weight", 1, 0.05),
        ("stages.2.8.mixer.height.weight", 2, 0.05),
        ("stages.0.0.gamma", 6, 0),
    ):
        assert found[f"backbone.{key}"] == pytest.approx((2e-4 * 0.7**power, own_decay))


def test_stage_wise_decay():
    """mmseg's constructor: twelve groups, six rates with and without weight decay."""
    cfg = load(UPERNET[0])
    found = settings(build(cfg), cfg.optim_wrapper, "mmseg")
    for key, (rate, _) in found.items():
        parts = key.split(".")
        power = 0
        if parts[:2] == ["backbone", "downsample_layers"]:
            power = 7
        elif parts[:2] == ["backbone", "stages"]:
            power = 6 - int(parts[2])
        assert rate == pytest.approx(1e-4 * 0.9**power), key
    assert len(set(found.values())) == 12


def test_cascade_heads():
    cfg = load(CASCADE)
    head, train_cfg = cfg.model.roi_head, cfg.model.train_cfg
    assert (cfg.model.type, head.type, head.num_stages) == ("CascadeRCNN", "CascadeRoIHead", 3)
    assert head.stage_loss_weights == [1, 0.5, 0.25]
    model = revert_sync_batchnorm(build(cfg))
    for box_head, stds, rcnn, iou in zip(
        head.bbox_head, (1, 2, 3), train_cfg.rcnn, (0.5, 0.6, 0.7), strict=True
    ):
        assert (box_head.num_shared_convs, box_head.num_shared_fcs) == (4, 1)
        assert box_head.norm_cfg.type == "SyncBN"
        assert (box_head.loss_bbox.type, box_head.loss_bbox.loss_weight) == ("GIoULoss", 10.0)
        assert box_head.reg_decoded_bbox, "GIoU is of boxes"
        expected = [round(std / stds, 3) for std in (0.1, 0.1, 0.2, 0.2)]
        assert box_head.bbox_coder.target_stds == expected
        assigner = rcnn.assigner
        assert assigner.pos_iou_thr == assigner.neg_iou_thr == assigner.min_pos_iou == iou
    assert len(model.roi_head.mask_head) == 3


def test_cascade_scales():
    """Short side 480 to 800 in steps of 32, long side to 1333, every second image cropped."""
    flip, choice = load(CASCADE).train_dataloader.dataset.pipeline[2:4]
    assert (flip.type, choice.type) == ("RandomFlip", "RandomChoice")
    (plain,), (first, crop, last) = choice.transforms
    assert "prob" not in choice, "both are as likely"
    assert plain == last
    assert [tuple(scale) for scale in plain.scales] == [
        (1333, short) for short in range(480, 801, 32)
    ]
    assert [tuple(scale) for scale in first.scales] == [(1333, 400), (1333, 500), (1333, 600)]
    assert (crop.crop_type, tuple(crop.crop_size)) == ("absolute_range", (384, 600))
    # The single-scale ones.
    for name in MASKRCNN:
        assert load(name).train_dataloader.dataset.pipeline[2].scale == (1333, 800)


@pytest.mark.parametrize("name", [*DETECTORS, *SEGMENTORS, NUCLEI])
def test_backbone_settings(name):
    cfg = load(name)
    backbone = cfg.model.backbone
    model = build(cfg).train()
    norms = [module for module in model.backbone.modules() if isinstance(module, _BatchNorm)]
    assert {norm.training for norm in norms} <= {name == NUCLEI or "mobilenetv2" in name}
    if "convnext" in name:
        assert not norms
        assert backbone.drop_path_rate == (0.4 if name in (CASCADE, *UPERNET) else 0.1)
        assert backbone.layer_scale_init_value == 1.0
    else:
        assert norms
    if "mobilenetv2" in name:
        assert model.backbone.out_channels == (24, 32, 96, 1280)
    frozen = {key for key, value in model.backbone.named_parameters() if not value.requires_grad}
    if "resnet50" in name:
        expected = {
            key
            for key, _ in model.backbone.named_parameters()
            if key.startswith(("conv1.", "bn1.", "layer1."))
        }
        assert frozen == expected != set()
    else:
        assert not frozen


@pytest.mark.parametrize("name", [*DETECTORS, *SEGMENTORS, NUCLEI])
def test_every_trained_parameter_has_a_group(name):
    cfg = load(name)
    model = build(cfg)
    found = settings(model, cfg.optim_wrapper, cfg.default_scope)
    assert set(found) == {key for key, value in model.named_parameters() if value.requires_grad}
    exempt = {key for key, (_, decay) in found.items() if decay == 0}
    norms = norm_parameters(model) & set(found)
    if name in (CASCADE, *MASKRCNN, *UPERNET, RETINANET[0]):
        flat = {key for key, value in model.named_parameters() if value.ndim == 1}
        assert exempt == {key for key in found if key in flat or key.endswith(".bias")}
    else:
        assert exempt == (set() if name == NUCLEI else norms)
    if name not in (*LAYER_DECAY, UPERNET[0]):
        assert {rate for rate, _ in found.values()} == {cfg.optim_wrapper.optimizer.lr}


@pytest.mark.parametrize("name", SEGMENTORS)
def test_ade20k_settings(name):
    cfg = load(name)
    assert cfg.train_cfg.max_iters == 160_000
    rates = learning_rates(cfg, epoch_length=1) / cfg.optim_wrapper.optimizer.lr
    np.testing.assert_allclose(rates[:1500], np.linspace(1e-6, 1, 1500), rtol=1e-6)
    # the rate falls to 0 in a straight line, from the end of the warm-up to that of the run
    expected = np.linspace(1, 0, 160_000 - 1500 + 1)[:-1]
    np.testing.assert_allclose(rates[1500:], expected, rtol=0.01, atol=1e-4)
    resize, crop = cfg.train_dataloader.dataset.pipeline[2:4]
    assert (tuple(resize.ratio_range), tuple(crop.crop_size)) == ((0.5, 2.0), (512, 512))
    test_cfg = cfg.model.test_cfg
    assert (test_cfg.mode, test_cfg.crop_size, test_cfg.stride) == ("slide", (512, 512), (341, 341))


@pytest.mark.parametrize("name", sorted({*DETECTORS, *SEGMENTORS, NUCLEI, *PARCNETS}))
def test_input_convention(name):
    """ParC-Net takes BGR / 255, the ParC-ConvNets standardised RGB."""
    cfg = load(name)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        preprocess = MODELS.build(cfg.model.data_preprocessor)
    blue = torch.zeros(3, 512, 512, dtype=torch.uint8)
    blue[0], blue[1] = 255, 51  # OpenCV reads BGR
    found = preprocess.forward({"inputs": [blue], "data_samples": None})["inputs"][0, :, 5, 5]
    if "parcnet" in name:
        expected = torch.tensor([1.0, 0.2, 0.0])
    else:
        rgb = torch.tensor([0.0, 51.0, 255.0])
        mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
        expected = (rgb - mean) / std
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", [*DETECTORS, *SEGMENTORS])
def test_rectangles(name):
    """Maps of 25 x 42 and the like: each axis has its own kernel length."""
    cfg = load(name)
    model = build(cfg).eval()
    assert "instance_kernel" not in cfg.model.backbone, "the default resizes"
    maps = model.extract_feat(torch.empty(1, 3, 800, 1344, device="meta"))
    for feature, stride in zip(maps, model.backbone.strides, strict=False):
        assert feature.shape[2:] == (800 // stride, 1344 // stride)


def test_cascade_trains():
    from mmdet.testing import demo_mm_inputs

    cfg = load(CASCADE)
    cfg.model.train_cfg.rpn_proposal.update(nms_pre=50, max_per_img=20)
    cfg.model.train_cfg.rcnn = [
        {**rcnn, "sampler": {**rcnn.sampler, "num": 16}} for rcnn in cfg.model.train_cfg.rcnn
    ]
    torch.manual_seed(0)
    model = revert_sync_batchnorm(build(cfg, "cpu")).train()
    inputs = demo_mm_inputs(2, [[3, 96, 128]] * 2, num_items=[2, 2], with_mask=True)
    with DefaultScope.overwrite_default_scope("mmdet"):
        losses = model(**model.data_preprocessor(inputs, training=True), mode="loss")
    total = sum(sum(value) if isinstance(value, list) else value
                for key, value in losses.items() if "loss" in key)  # fmt: skip
    assert torch.isfinite(total)
    assert {f"s{stage}.loss_{part}" for stage in range(3) for part in ("cls", "bbox", "mask")} <= (
        set(losses)
    )
    total.backward()
    missing = [key for key, value in model.named_parameters() if value.grad is None]
    assert not missing, "DDP needs a gradient for each"


@pytest.mark.parametrize("name", [*DETECTORS, *SEGMENTORS])
def test_head_comment_says_whose_recipe(name):
    text = (CONFIGS / f"{name}.py").read_text("utf-8").partition("_base_")[0]
    if name in (CASCADE, *UPERNET):
        assert "Fast-ParC's first author" in text
        assert "hkzhang91/ParC-Net" in text
    else:
        assert "Published: nothing: the authors" in text
