"""The ImageNet recipes of the ParC families against docs/specs/parc.md#6-published-recipes."""

import math

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import HOOKS, MODELS, DefaultScope
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from PIL import Image
from recipes import (
    build,
    check_head_and_mixes,
    check_test_pipelines,
    check_training_pipeline,
    decays,
    learning_rates,
    load,
)
from torch import nn

PARC_NET = [f"parcnet_{arch}_imagenet" for arch in ("xs", "s", "h")]
CONV_NETS = [f"parc_{name}_imagenet" for name in ("convnext_xt", "resnet50", "mobilenetv2")]
ALL = [*PARC_NET, *CONV_NETS]
# docs/specs/parc.md#4-variants: parameters with 1000 classes.
PARAMETERS = dict(
    zip(ALL, (2_185_384, 5_037_088, 20_403_940, 7_412_824, 23_737_640, 3_532_136), strict=True)
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_parc_net_schedule():
    """0.0004 to 0.004 in 3000 iterations, then a cosine in steps of an epoch back to 0.0004."""
    cfg, length = load("parcnet_s_imagenet"), 854  # of 8 GPUs
    assert cfg.train_cfg.max_epochs == 300
    for name in ("parcnet_xs_imagenet", "parcnet_h_imagenet"):
        other = load(name)
        assert other.param_scheduler == cfg.param_scheduler
        assert other.train_cfg == cfg.train_cfg
    rates = learning_rates(cfg, length)
    warmup = 4e-4 + (4e-3 - 4e-4) * np.arange(3001) / 3000
    np.testing.assert_allclose(rates[:3001], warmup, rtol=1e-6)
    np.testing.assert_allclose(rates[3000 : 4 * length], 4e-3, rtol=1e-6)
    epochs = rates[4 * length :].reshape(296, length)
    assert (epochs == epochs[:, :1]).all(), "one rate per epoch"
    cosine = 4e-4 + (4e-3 - 4e-4) * (1 + np.cos(np.pi * np.arange(296) / 296)) / 2
    np.testing.assert_allclose(epochs[:, 0], cosine, rtol=1e-6)
    assert epochs[-1, 0] == pytest.approx(4e-4, rel=1e-3)


@pytest.mark.parametrize("name", CONV_NETS)
def test_conv_net_schedule(name):
    """20 epochs of warm-up to 0.004, then a cosine to nearly 0, a step per iteration."""
    cfg, length = load(name), 10
    assert cfg.train_cfg.max_epochs == 300
    rates = learning_rates(cfg, length)
    expected = [
        4e-3 * step / (20 * length)
        if step < 20 * length
        else 1e-6 + (4e-3 - 1e-6) * (1 + math.cos(math.pi * (step / length - 20) / 280)) / 2
        for step in range(300 * length)
    ]
    # MMEngine reaches the end of the warm-up with its last iteration.
    np.testing.assert_allclose(rates, expected, atol=1.01 * 4e-3 / (20 * length))
    assert rates[0] == pytest.approx(0, abs=1e-8)
    assert rates.max() == pytest.approx(4e-3)
    assert rates[-1] == pytest.approx(1e-6, rel=0.1)


@pytest.mark.parametrize("name", PARC_NET)
def test_schedule_scales_with_the_rate(name):
    """--auto-scale-lr multiplies the rate alone; the curve must follow."""
    cfg = load(name)
    rates = learning_rates(cfg, 20)
    cfg.optim_wrapper.optimizer.lr *= 3
    np.testing.assert_allclose(learning_rates(cfg, 20), 3 * rates, rtol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_optimizer(name):
    """AdamW; ParC-Net decays everything, ConvNeXt's recipe nothing of one dimension."""
    cfg = load(name)
    settings = cfg.optim_wrapper.optimizer
    assert (settings.type, settings.lr) == ("AdamW", pytest.approx(4e-3))
    assert "betas" not in settings, "PyTorch's, 0.9 and 0.999"
    assert "clip_grad" not in cfg.optim_wrapper
    decay = 0.025 if name in PARC_NET[:2] else 0.05
    assert settings.weight_decay == decay

    model = build(cfg)
    parameters, found = dict(model.named_parameters()), decays(cfg, model)
    exempt = {key for key, parameter in parameters.items() if parameter.ndim == 1}
    assert exempt
    if name in PARC_NET:
        exempt = set()
    assert {key for key, value in found.items() if value == 0} == exempt
    embeddings = {key for key in parameters if key.endswith("position_embedding")}
    assert embeddings
    assert not embeddings & exempt


@pytest.mark.parametrize("name", ALL)
def test_effective_batch(name):
    cfg = load(name)
    batch = cfg.train_dataloader.batch_size
    accumulated = cfg.optim_wrapper.get("accumulative_counts", 1)
    if name in PARC_NET:
        assert (8, batch, accumulated) == (8, 128, 1)
    else:
        assert (8, batch, accumulated) == (8, 256, 2)
        assert 8 * batch * accumulated == 4096
    assert cfg.auto_scale_lr == {"enable": False, "base_batch_size": 8 * batch * accumulated}


@pytest.mark.parametrize("name", ALL)
def test_moving_average(name):
    """Momentum 5e-4 (ConvNeXt's recipe: 1e-4) at each step of the optimizer, from the first on."""
    cfg = load(name)
    (hook,) = cfg.custom_hooks
    assert hook.momentum == (5e-4 if name in PARC_NET else 1e-4)
    assert hook.get("interval", 1) == cfg.optim_wrapper.get("accumulative_counts", 1)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        built = HOOKS.build(dict(hook))
        assert type(built).__module__.startswith("mmpretrain"), "it evaluates the average"
        assert (built.begin_iter, built.begin_epoch) == (0, 0)
        net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
        average = MODELS.build(built.ema_cfg, default_args={"model": net})
    assert isinstance(average, ExponentialMovingAverage)
    average.update_parameters(net)  # a copy
    before = net[0].weight.detach().clone()
    with torch.no_grad():
        net[0].weight += 1
        net[1].running_mean += 1
    for _ in range(hook.get("interval", 1)):
        average.update_parameters(net)
    torch.testing.assert_close(average.module[0].weight, before + hook.momentum, rtol=0, atol=1e-6)
    mean = hook.momentum if name in PARC_NET else 1.0  # of the statistics, or the last ones
    torch.testing.assert_close(average.module[1].running_mean, torch.full((2,), mean))


@pytest.mark.parametrize("name", ALL)
def test_model(name):
    cfg = load(name)
    model = build(cfg)
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    loss = cfg.model.head.loss
    assert (loss.type, loss.label_smooth_val) == ("LabelSmoothLoss", 0.1)
    dropouts = [
        module.p
        for module in (model.neck or nn.Identity()).modules()
        if isinstance(module, nn.Dropout)
    ]
    assert dropouts == ([0.2] if name in (*PARC_NET, "parc_mobilenetv2_imagenet") else [])
    rate = cfg.model.backbone.get("drop_path_rate", 0.0)
    assert rate == (0.0 if name in PARC_NET else 0.1)
    assert cfg.default_scope == "mmpretrain"
    if name in PARC_NET:
        assert cfg.model.train_cfg is None, "no mixing"
        for size in (160, 192, 256, 288, 320, 224):
            (feature,) = model.extract_feat(torch.empty(2, 3, size, size, device="meta"))
            assert feature.shape == (2, cfg.model.head.in_channels)
    else:
        check_head_and_mixes(cfg, [("Mixup", 0.8), ("CutMix", 1.0)])
    if name == "parc_convnext_xt_imagenet":
        assert model.neck is None
        assert model.backbone.gap_before_final_norm
    batch = model.eval()(torch.empty(2, 3, 224, 224, device="meta"), mode="tensor")
    assert batch.shape == (2, 1000)


@pytest.mark.parametrize("name", PARC_NET)
def test_parc_net_input(name):
    """BGR, divided by 255 and nothing else; tested on 256 of 288."""
    cfg = load(name)
    image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        test = Compose(cfg.test_dataloader.dataset.pipeline[1:])
        preprocessor = MODELS.build(dict(cfg.model.data_preprocessor, type="ClsDataPreprocessor"))
    assert cfg.val_dataloader.dataset.pipeline == cfg.test_dataloader.dataset.pipeline
    resized = test({"img": np.full((300, 400, 3), (10, 20, 30), np.uint8)})
    given = preprocessor({"inputs": [resized["inputs"]], "data_samples": [DataSample()]})["inputs"]
    assert given.shape == (1, 3, 256, 256)
    expected = torch.tensor([10.0, 20.0, 30.0]) / 255
    torch.testing.assert_close(given[0, :, 128, 128], expected)
    resize, centre = test.transforms[:2]
    assert (resize.scale, resize.edge, centre.crop_size) == (288, "short", (256, 256))
    assert resize({"img": image})["img"].shape == (288, 384, 3)
    kinds = [step.type for step in cfg.train_dataloader.dataset.pipeline]
    assert kinds == [
        "LoadImageFromFile",
        "mmvitconv.MultiScaleRandomResizedCrop",
        "RandomFlip",
        "PackInputs",
    ]
    crop, flip = cfg.train_dataloader.dataset.pipeline[1:3]
    assert (crop.interpolation, flip.prob, flip.direction) == ("bilinear", 0.5, "horizontal")
    assert (tuple(crop.crop_ratio_range), crop.aspect_ratio_range) == ((0.08, 1.0), (3 / 4, 4 / 3))


def test_parc_net_batches(tmp_path):
    """The loader that the runner makes of the config: sizes and numbers of the specification."""
    for index in range(6):
        folder = tmp_path / "train" / f"n{index % 2:08d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 30), (index, 0, 200)).save(folder / f"{index}.png")
    cfg = load("parcnet_xs_imagenet")
    loader = cfg.train_dataloader
    loader.dataset.update(type="CustomDataset", data_root=None, data_prefix=str(tmp_path / "train"))
    del loader.dataset["split"]
    loader.update(num_workers=0, persistent_workers=False)
    loader.dataset = {"type": "RepeatDataset", "dataset": loader.dataset, "times": 156}  # 936
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        built = Runner.build_dataloader(loader, seed=0)
    assert len(built) == 5
    shapes = set()
    for batch in built:
        (shape,) = {tuple(image.shape) for image in batch["inputs"]}
        assert shape[1] == shape[2]
        shapes.add((shape[1], len(batch["inputs"])))
        assert (batch["inputs"][0][0] > batch["inputs"][0][2]).all(), "blue comes first"
    assert shapes == {(160, 327), (192, 227), (256, 128), (288, 128), (320, 128)}


@pytest.mark.parametrize("name", CONV_NETS)
def test_conv_net_pipelines(name):
    cfg = load(name)
    check_training_pipeline(cfg, {"bicubic"})
    check_test_pipelines(cfg, 256)
    preprocessor = cfg.model.data_preprocessor
    assert preprocessor.to_rgb
    assert preprocessor.mean == [123.675, 116.28, 103.53]
