"""ParC-Net's DeepLabv3 segmentor against a literal oracle with the original's keys and layout."""

import copy
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.structures import PixelData
from oracles.parc import fill_like, parc_net
from PIL import Image
from recipes import check_cosine
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mmvitconv.engine.configuration import load_config
from mmvitconv.models.backbones.parc_net import ParCNet
from mmvitconv.models.heads.aspp import DeepLabV3Head
from mmvitconv.weights import convert_state_dict

CONFIG = Path(__file__).resolve().parents[3] / "configs/parc/deeplabv3_parcnet_s_voc.py"


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def scope() -> Iterator[None]:
    with DefaultScope.overwrite_default_scope("mmseg"):
        yield


@pytest.fixture(scope="module")
def cfg() -> Config:
    cfg = load_config(str(CONFIG))
    cfg.model.backbone.init_cfg = None  # no network here
    return cfg


@pytest.fixture
def model(cfg: Config) -> nn.Module:
    from mmengine.model import revert_sync_batchnorm

    model = MODELS.build(Config(cfg.model.to_dict())._cfg_dict)
    model.init_weights()
    return revert_sync_batchnorm(model)  # as the runner does on one device


class Layer(nn.Module):
    """Convolution, BN and ReLU below ``block``."""

    def __init__(self, c_in: int, c_out: int, kernel: int = 1, rate: int = 1):
        super().__init__()
        padding = rate * (kernel // 2)
        conv = nn.Conv2d(c_in, c_out, kernel, padding=padding, dilation=rate, bias=False)
        self.block = nn.Sequential(
            OrderedDict(conv=conv, norm=nn.BatchNorm2d(c_out), act=nn.ReLU())
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x)


class Pool(nn.Module):
    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        self.aspp_pool = nn.Sequential(OrderedDict(conv_1x1=Layer(c_in, c_out)))

    def forward(self, x: Tensor) -> Tensor:
        return self.aspp_pool(x.mean(dim=(2, 3), keepdim=True)).expand(-1, -1, *x.shape[2:])


class ASPP(nn.Module):
    def __init__(self, c_in: int, c_out: int):
        super().__init__()
        rates = [Layer(c_in, c_out, 3, rate) for rate in (6, 12, 18)]
        self.convs = nn.ModuleList([Layer(c_in, c_out), *rates, Pool(c_in, c_out)])
        self.project = Layer(5 * c_out, c_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.project(torch.cat([conv(x) for conv in self.convs], dim=1))


class Original(nn.Module):
    """docs/specs/parc.md#23-network, #5-state-dict, #10-details: class scores of pixels."""

    def __init__(self):
        super().__init__()
        self.encoder = parc_net("s", output_stride=16)
        del self.encoder.conv_1x1_exp, self.encoder.classifier
        block = nn.Sequential(OrderedDict(conv=nn.Conv2d(256, 21, 1)))
        classifier = nn.Sequential(OrderedDict(block=block))
        self.seg_head = nn.Sequential(
            OrderedDict(
                aspp=nn.Sequential(OrderedDict(aspp_layer=ASPP(160, 256))),
                classifier=nn.Sequential(OrderedDict(classifier=classifier)),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.encoder.conv_1(x)
        for i in range(1, 6):
            x = getattr(self.encoder, f"layer_{i}")(x)
        return F.interpolate(self.seg_head(x), scale_factor=16, mode="bilinear")


@pytest.mark.parametrize("size", [(256, 256), (320, 320), (192, 96)])
def test_equals_the_original(model: nn.Module, size: tuple[int, int]):
    original = Original().eval()
    original.load_state_dict(fill_like(original.state_dict(), gain=1.3))
    model.load_state_dict(convert_state_dict(original.state_dict(), "parc_net"))
    x = torch.rand(2, 3, *size)
    meta = {"ori_shape": size, "img_shape": size, "pad_shape": size}
    with torch.no_grad():
        expected = original(x)
        scores = model.eval().encode_decode(x, [meta] * 2)
    assert scores.shape == (2, 21, *size)
    assert expected[0].sub(expected[1]).std() > 0.01 * expected.std()
    torch.testing.assert_close(scores, expected, rtol=0, atol=3e-4 * expected.std().item())


def test_parameters_and_multiply_adds(model: nn.Module):
    """docs/specs/parc.md#4-variants; without folded embeddings, which exist only where no gradient
    is asked for."""
    assert sum(p.numel() for p in model.parameters()) == 5_816_397
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(model).to("meta").eval()(torch.empty(1, 3, 512, 512, device="meta"))
    assert round(counter.get_total_flops() / 2 / 1e6) == 9754


def batch(height: int, width: int) -> dict:
    """Two images with random classes, as a data loader gives them."""
    from mmseg.structures import SegDataSample

    size = (height, width)
    samples = []
    for _ in range(2):
        sample = SegDataSample(metainfo={"img_shape": size, "ori_shape": size})
        classes = torch.randint(21, (1, height // 32, width // 32))
        classes = classes.repeat_interleave(32, 1).repeat_interleave(32, 2)
        classes[:, :4] = 255  # not to be learnt
        sample.gt_sem_seg = PixelData(data=classes)
        samples.append(sample)
    images = list(torch.randint(256, (2, 3, *size), dtype=torch.uint8))
    return {"inputs": images, "data_samples": samples}


@pytest.mark.parametrize("size", [(160, 160), (192, 160)])
def test_trains_a_step_and_predicts(model: nn.Module, size: tuple[int, int]):
    model.data_preprocessor.size = size
    optimizer = torch.optim.AdamW(model.parameters(), lr=9e-4)
    data = batch(*size)
    values = []
    for _ in range(2):
        losses = model.train()(**model.data_preprocessor(data, True), mode="loss")
        loss = losses["decode.loss_ce"]
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        values.append(loss.item())
    assert 0 < values[1] < values[0] < 10
    with torch.no_grad():
        found = model.eval()(**model.data_preprocessor(data, False), mode="predict")
    for sample in found:
        assert sample.pred_sem_seg.data.shape == (1, *size)


def test_takes_bgr_over_255(model: nn.Module):
    images = batch(160, 160)
    given = torch.stack(images["inputs"]).float()
    torch.testing.assert_close(model.data_preprocessor(images, False)["inputs"] * 255, given)


def test_recipe(cfg: Config, model: nn.Module):
    """docs/specs/parc.md#6-published-recipes."""
    assert (cfg.train_cfg.max_epochs, cfg.train_dataloader.batch_size) == (50, 8)
    assert cfg.auto_scale_lr.base_batch_size == 32
    assert cfg.model.backbone.output_stride == 16
    check_cosine(cfg, 50)
    wrapper: OptimWrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    rates = {id(group["params"][0]): group["lr"] for group in wrapper.param_groups}
    for name, parameter in model.named_parameters():
        head = name.startswith("decode_head.")
        assert rates[id(parameter)] == pytest.approx(9e-3 if head else 9e-4)
    assert {group["weight_decay"] for group in wrapper.param_groups} == {0.01}


@pytest.fixture
def voc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with four images in the layout of mmseg's converter, and one of COCO."""
    root, coco = tmp_path / "data/VOCdevkit/VOC2012", tmp_path / "data/coco"
    lists, images = root / "ImageSets/Segmentation", root / "JPEGImages"
    generator = np.random.default_rng(0)
    for file, folder, masks, count in (
        (lists / "train.txt", images, root / "SegmentationClass", 1),
        (lists / "aug.txt", images, root / "SegmentationClassAug", 2),
        (lists / "val.txt", images, root / "SegmentationClass", 1),
        (coco / "voc_masks/train2017.txt", coco / "train2017", coco / "voc_masks/train2017", 1),
    ):
        for path in (file.parent, folder, masks):
            path.mkdir(parents=True, exist_ok=True)
        names = [f"{file.stem}_{i}" for i in range(count)]
        file.write_text("\n".join(names))
        for name in names:
            pixels = generator.integers(0, 256, (60, 80, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}.jpg")
            classes = generator.integers(0, 21, (60, 80), dtype=np.uint8)
            Image.fromarray(classes).save(masks / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_data(cfg: Config, voc: Path):
    train = DATASETS.build(cfg.train_dataloader.dataset)
    assert len(train) == 4
    assert len(train.metainfo["classes"]) == 21
    short = set()
    for _ in range(8):
        for sample in train:
            assert sample["inputs"].shape[0] == 3
            assert max(sample["inputs"].shape[1:]) <= 512
            classes = sample["data_samples"].gt_sem_seg.data
            assert classes.shape[1:] == sample["inputs"].shape[1:]
            assert set(classes.unique().tolist()) <= {*range(21), 255}
            short.add(min(sample["inputs"].shape[1:]))
    assert 384 <= min(short) < max(short) == 512
    (sample,) = DATASETS.build(cfg.val_dataloader.dataset)
    assert sample["inputs"].shape == (3, 512, 512)  # the ratio is not kept
    assert sample["data_samples"].gt_sem_seg.data.shape == (1, 60, 80)


def test_the_config_names_what_is_registered(cfg: Config):
    assert MODELS.get(cfg.model.decode_head.type) is DeepLabV3Head
    assert MODELS.get(cfg.model.backbone.type) is ParCNet
