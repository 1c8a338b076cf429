"""One training step and one evaluation of every config, on tiny data in one process.

Images are small, and so are the numbers of proposals and queries. Stages have one block each, which
keeps their channels; the models of full depth are built in test_configs.py. Pipelines, losses,
optimizers and evaluators are those of the configs.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from families import ARCHS, shallow
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.model import revert_sync_batchnorm
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope
from PIL import Image
from recipes import CONFIGS, load
from tiny_data import write_ade20k, write_coco

from mmvitconv.datasets.multiscale import SizedIndex
from mmvitconv.engine.quiet import quiet_logger

DATA = ("imagenet", "coco", "ade20k", "cityscapes", "voc")
NAMES = sorted(path.stem for path in CONFIGS.glob("*/*.py") if path.stem.rpartition("_")[2] in DATA)
# One of each family, a detector, a segmentor, a classifier among them.
FAST = (
    *("dino_fcvit_s12_coco", "mask2former_lightvit_tiny_ade20k", "upernet_resnet50_ade20k"),
    *("retinanet_convmixer_256_8_coco", "fastparc_convnext_tiny_imagenet"),
    *("maskrcnn_dynconv_deit_tiny_lnrelu_coco", "upernet_parc_convnext_xt_cityscapes"),
)
METRICS = {
    "imagenet": {"accuracy/top1"},
    "coco": {"coco/bbox_mAP"},
    "ade20k": {"mIoU"},
    "cityscapes": {"mIoU"},
    "voc": {"mIoU"},
}
SIDE = 64  # of crops; images are 96 x 64
# What makes a step of a large head long, or takes more candidates than small images have; and no
# score is above the usual threshold at first.
FEWER = {
    **{"num_queries": 20, "num": 16, "max_per_img": 20, "nms_pre": 50, "score_thr": 0.0},
    **{"channels": 16, "fc_out_channels": 16, "feedforward_channels": 16},
    **{"num_layers": 1, "stacked_convs": 1, "num_convs": 1},
}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A folder with all data sets where the configs look for them."""
    root = tmp_path_factory.mktemp("matrix") / "data"
    write_coco(root / "coco")
    write_ade20k(root / "ade/ADEChallengeData2016")
    generator = np.random.default_rng(0)
    for part in ("train", "val"):
        folders = [root / f"cityscapes/{kind}/{part}/city" for kind in ("leftImg8bit", "gtFine")]
        for folder in (*folders, root / f"imagenet/{part}/a", root / f"imagenet/{part}/b"):
            folder.mkdir(parents=True)
        for index in range(2):
            image = Image.fromarray(generator.integers(0, 256, (64, 96, 3), dtype=np.uint8))
            labels = Image.fromarray(generator.integers(0, 19, (64, 96), dtype=np.uint8))
            image.save(folders[0] / f"{index}_leftImg8bit.png")
            labels.save(folders[1] / f"{index}_gtFine_labelTrainIds.png")
            image.save(root / f"imagenet/{part}/{'ab'[index]}/{index}.JPEG")
    for folder, images, masks, parts in (
        ("coco", "train2017", "voc_masks/train2017", ("voc_masks/train2017",)),
        ("VOCdevkit/VOC2012", "JPEGImages", "SegmentationClass", ("train", "val")),
        ("VOCdevkit/VOC2012", "JPEGImages", "SegmentationClassAug", ("aug",)),
    ):
        for name in parts:
            number = Path(name).name
            place = root / folder
            listed = place / (
                f"{name}.txt" if "/" in name else f"ImageSets/Segmentation/{name}.txt"
            )
            for path in (place / images, place / masks, listed.parent):
                path.mkdir(parents=True, exist_ok=True)
            image.save(place / images / f"{number}.jpg")
            labels.save(place / masks / f"{number}.png")
            listed.write_text(f"{number}\n")
    return root


def shrink(node):
    """Make images and numbers in a config small, in place."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key in FEWER and isinstance(value, (int, float)):
                node[key] = FEWER[key]
            elif key in ("scale", "crop_size", "size") and value:
                is_range = isinstance(value, list) and isinstance(value[0], tuple)
                square = isinstance(value, int) or key != "scale"
                node[key] = value if is_range else SIDE if isinstance(value, int) else (
                    (SIDE, SIDE) if square else (96, SIDE)
                )  # fmt: skip
            elif key == "scales" and node.get("type") == "RandomChoiceResize":
                node[key] = [SIDE] if isinstance(value[0], int) else [(96, SIDE)]
            elif key not in ("pixel_decoder", "anchor_generator"):
                shrink(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            shrink(value)


def small(cfg: Config, root: Path) -> Config:
    """The config with small images and shallow stages, its data under a folder."""
    cfg = Config(cfg._cfg_dict.to_dict())
    for part in (cfg.model, cfg.train_dataloader.dataset, cfg.val_dataloader.dataset):
        shrink(part)
    train = cfg.train_dataloader.dataset
    for dataset in (*train.get("datasets", [train]), cfg.val_dataloader.dataset):
        dataset.update(data_root=str(root.parent / dataset.data_root), serialize_data=False)
        if dataset.type == "ImageNet":
            dataset.metainfo = {"classes": ["a", "b"]}
    if "ann_file" in cfg.val_evaluator:
        cfg.val_evaluator.ann_file = str(root.parent / cfg.val_evaluator.ann_file)
    backbone = cfg.model.backbone
    if backbone.type == "mmvitconv.WithParC":
        backbone = backbone.backbone
    family = backbone.type.removeprefix("mmvitconv.")
    if family in ARCHS:
        sizes = shallow(family, backbone.arch)
        if "depths" in sizes:
            backbone.arch = sizes
        elif family == "ConvMixer":
            backbone.arch = {**sizes, "depth": 6}  # so that its four outputs differ
    elif isinstance(backbone.get("arch"), dict):
        backbone.arch.depths = [1, 1, 1, 1]
    backbone.pop("init_cfg", None)
    return cfg


def one_step(name: str, root: Path) -> tuple[float, dict[str, float]]:
    """Train on two images, evaluate all; gives the loss and the metrics."""
    cfg = small(load(name), root)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.manual_seed(0)
        model = revert_sync_batchnorm(MODELS.build(cfg.model))
        with quiet_logger():
            model.init_weights()
        wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
        wrapper._inner_count, wrapper._max_counts = 0, 1
        train, test = (
            DATASETS.build(loader.dataset) for loader in (cfg.train_dataloader, cfg.val_dataloader)
        )
        before = [parameter.detach().clone() for parameter in model.parameters()]
        losses = model.train().train_step(
            pseudo_collate([train[SizedIndex(index, 2 * SIDE)] for index in range(2)]), wrapper
        )
        pairs = zip(before, model.parameters(), strict=True)
        assert any(not torch.equal(*pair) for pair in pairs)
        evaluator = Evaluator(cfg.val_evaluator)
        evaluator.dataset_meta = test.metainfo
        model.eval()
        with torch.no_grad():
            for index in range(len(test)):
                batch = pseudo_collate([test[index]])
                evaluator.process(model.val_step(batch), batch)
        return float(losses["loss"]), evaluator.evaluate(len(test))


def check(name: str, root: Path) -> None:
    loss, metrics = one_step(name, root)
    assert math.isfinite(loss)
    assert loss > 0
    expected = METRICS[name.rpartition("_")[2]]
    assert expected <= metrics.keys()
    assert all(0 <= metrics[key] <= 100 for key in expected)


@pytest.mark.parametrize("name", FAST)
def test_one_of_a_family(name, data, runner_state):
    check(name, data)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in FAST])
def test_every_config(name, data, runner_state):
    check(name, data)
