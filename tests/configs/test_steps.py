"""One training step and one evaluation of a config of each task, through MMEngine's runner.

The data lie where the configs look for them, seen from a temporary working directory.
"""

import math
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer
from tiny_data import write_ade20k, write_coco

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
# One of 81 classes, or a focal loss's prior, has no score above the usual threshold at first.
ANY_SCORE = 0.0
TEACHER = {
    "type": "mmvitconv.DistillationHook",
    "teacher": {"model_name": "test_resnet", "pretrained": False, "num_classes": 10},
}


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A working directory with an empty ``data``; the runner's global state is put back."""
    import mmdet.visualization
    import mmpretrain.visualization
    import mmseg.visualization

    visualizers = (
        mmdet.visualization.DetLocalVisualizer,
        mmseg.visualization.SegLocalVisualizer,
        mmpretrain.visualization.UniversalVisualizer,
    )
    for manager in (DefaultScope, MMLogger, MessageHub, Visualizer, *visualizers):
        monkeypatch.setattr(manager, "_instance_dict", manager._instance_dict.copy())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    yield tmp_path
    for checkpoint in tmp_path.rglob("*.pth"):  # pytest would keep them
        checkpoint.unlink()


def one_step(name: str, changes: dict | None = None) -> tuple[float, dict[str, float]]:
    """Train one iteration, evaluate; gives the loss and the metrics."""
    (path,) = CONFIGS.glob(f"*/{name}.py")
    cfg = Config.fromfile(path)
    if "max_epochs" in cfg.train_cfg:
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
        if name.rpartition("_")[2] != "coco":  # three images are one batch
            cfg.train_dataloader.num_batch_per_epoch = 1
    else:
        cfg.train_cfg.update(max_iters=1, val_interval=1)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        loader.update(num_workers=0, persistent_workers=False)
    cfg.work_dir = "work"
    cfg.model.backbone.init_cfg = None  # no network here; starting weights have tests of their own
    cfg.merge_from_dict(changes or {})
    runner = Runner.from_cfg(cfg)
    before = {key: value.clone() for key, value in runner.model.state_dict().items()}
    runner.train()
    assert runner.iter == 1
    after = runner.model.state_dict()
    assert any(not value.equal(after[key]) for key, value in before.items() if "running" not in key)
    scalars = runner.message_hub.log_scalars
    hooks = [hook["type"] for hook in cfg.get("custom_hooks") or []]
    assert ("train/loss_distillation" in scalars) == ("mmvitconv.DistillationHook" in hooks)
    metrics = {
        key.removeprefix("val/"): history.current()
        for key, history in scalars.items()
        if key.startswith("val/") and "time" not in key
    }
    return scalars["train/loss"].current(), metrics


@pytest.mark.parametrize(
    ("name", "data", "changes", "expected"),
    [
        ("maskrcnn_fcvit_tiny_nuclei", "nuclei", {}, {"coco/bbox_mAP", "coco/segm_mAP"}),
        (
            "maskrcnn_lightvit_tiny_nuclei",
            "nuclei",
            {"custom_hooks": [{**TEACHER, "kind": "attention"}]},
            {"coco/bbox_mAP", "coco/segm_mAP"},
        ),
        (
            "retinanet_fcvit_tiny_trees",
            "trees",
            {"model.test_cfg.score_thr": ANY_SCORE},
            {"coco/bbox_mAP"},
        ),
        (
            "upernet_fcvit_tiny_nuclei",
            "nuclei",
            {"custom_hooks": [{**TEACHER, "kind": "attention"}]},
            {"mIoU", "aAcc"},
        ),
        ("fcvit_tiny_mnist", "mnist", {}, {"accuracy/top1"}),
        ("lightvit_tiny_mnist", "mnist", {"custom_hooks": [TEACHER]}, {"accuracy/top1"}),
    ],
)
def test_tiny_real_data(name, data, changes, expected, workplace, request):
    (workplace / "data" / data).symlink_to(request.getfixturevalue(f"{data}_root"))
    loss, metrics = one_step(name, changes)
    assert math.isfinite(loss)
    assert loss > 0
    assert expected <= set(metrics)
    assert all(0 <= metrics[key] <= 100 for key in expected)


SMALL_COCO = {  # 1333x800 would take a minute
    "train_dataloader.batch_size": 4,  # three images are one batch
    "train_dataloader.dataset.pipeline.2.scale": (192, 128),
    "val_dataloader.dataset.pipeline.1.scale": (192, 128),
}


@pytest.mark.parametrize(
    ("name", "changes", "least_loss", "expected"),
    [
        # log(81) of the box head's classes alone is 4.4
        (
            "maskrcnn_fcvit_s12_coco",
            {"model.test_cfg.rcnn.score_thr": ANY_SCORE},
            3,
            {"coco/bbox_mAP", "coco/segm_mAP"},
        ),
        (
            "retinanet_lightvit_tiny_coco",
            {"model.test_cfg.score_thr": ANY_SCORE},
            0,
            {"coco/bbox_mAP"},
        ),
    ],
)
def test_coco_config_on_a_small_folder(name, changes, least_loss, expected, workplace):
    write_coco(workplace / "data/coco")
    loss, metrics = one_step(name, {**SMALL_COCO, **changes})
    assert math.isfinite(loss)
    assert loss > least_loss
    assert expected <= set(metrics)


def test_ade20k_config_on_a_small_folder(workplace):
    write_ade20k(workplace / "data/ade/ADEChallengeData2016")
    loss, metrics = one_step(
        "upernet_lightvit_tiny_ade20k",
        {
            # 512x512 would take a minute
            "train_dataloader.dataset.pipeline.2.scale": (192, 128),
            "train_dataloader.dataset.pipeline.3.crop_size": (128, 128),
            "val_dataloader.dataset.pipeline.1.scale": (192, 128),
            "model.data_preprocessor.size": (128, 128),
        },
    )
    assert math.isfinite(loss)
    assert loss > 5, "log(150) of the decoder's classes alone is 5"
    assert {"mIoU", "aAcc"} <= set(metrics)
