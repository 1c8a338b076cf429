import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mmengine import Config

from mmvitconv.datasets.first_runs import DATA_SETS
from mmvitconv.datasets.layout import check_data, find_missing
from mmvitconv.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def coco(root="data/coco", split="train", **more):
    return {
        "type": "CocoDataset",
        "data_root": root,
        "ann_file": f"annotations/instances_{split}2017.json",
        "data_prefix": {"img": f"{split}2017/"},
        **more,
    }


def coco_config(root="data/coco"):
    evaluator = {"type": "CocoMetric", "ann_file": f"{root}/annotations/instances_val2017.json"}
    return Config(
        {
            "default_scope": "mmdet",
            "train_dataloader": {"dataset": coco(root)},
            "val_dataloader": {"dataset": coco(root, "val")},
            "test_dataloader": {"dataset": coco(root, "val")},
            "val_evaluator": evaluator,
            "test_evaluator": [evaluator],
        }
    )


def message(cfg, splits=("train", "val")):
    with pytest.raises(UserError) as caught:
        check_data(cfg, splits)
    return str(caught.value)


def touch(*paths):
    for path in map(Path, paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_coco_message(inside):
    (inside / "data").mkdir()
    text = message(coco_config())
    assert "\n  data/coco  (needed: data/coco/train2017, " in text
    assert "data/coco/annotations/instances_val2017.json" in text
    assert "annotations/instances_{train,val}2017.json" in text
    assert "Put COCO 2017" in text
    assert "train_dataloader.dataset.data_root=/your/path" in text
    assert "val_dataloader.dataset.data_root=/your/path" in text
    assert "val_evaluator.ann_file=/your/file" in text
    assert text.count("Layout expected") == 1


def test_complete_data_passes(inside):
    root = "data/coco"
    touch(f"{root}/annotations/instances_train2017.json", f"{root}/train2017/a.jpg")
    check_data(coco_config(), ("train",))
    text = message(coco_config())
    assert "train2017" not in text.split("Layout")[0]
    assert "train_dataloader" not in text
    touch(f"{root}/annotations/instances_val2017.json", f"{root}/val2017/a.jpg")
    check_data(coco_config(), ("train", "val", "test"))


def test_only_used_splits_count(inside):
    text = message(coco_config(), ("test",))
    assert "test_evaluator.0.ann_file" in text
    assert "train2017" not in text.split("Layout")[0]
    check_data(coco_config(), ())
    check_data(Config({"train_dataloader": None, "val_evaluator": None}))


def test_shortest_missing_parent_comes_first(inside):
    touch("data/coco/annotations/readme.txt")
    missing = find_missing(coco_config(), ("train",))
    assert [entry.parent for entry in missing] == [
        "data/coco/train2017",
        "data/coco/annotations/instances_train2017.json",
    ]
    assert "\n  data/coco/train2017\n" in message(coco_config(), ("train",))


def test_absolute_root(tmp_path):
    root = str(tmp_path / "some where" / "coco")
    assert f"\n  {tmp_path / 'some where'}  (needed: {root}/train2017" in message(coco_config(root))


def test_wrappers_and_their_options(inside):
    nested = {
        "type": "ConcatDataset",
        "datasets": [
            {"type": "RepeatDataset", "times": 2, "dataset": coco("one")},
            {"type": "MultiImageMixDataset", "dataset": coco("two")},
        ],
    }
    cfg = Config({"train_dataloader": {"dataset": nested}})
    text = message(cfg)
    assert "\n  one " in text
    assert "\n  two " in text
    assert "train_dataloader.dataset.datasets.0.dataset.data_root=" in text
    assert "train_dataloader.dataset.datasets.1.dataset.data_root=" in text
    # The keys can be used as they are printed.
    touch("here/annotations/instances_train2017.json", "here/train2017/a.jpg")
    cfg.merge_from_dict(
        {
            f"train_dataloader.dataset.datasets.{index}.dataset.data_root": "here"
            for index in range(2)
        }
    )
    check_data(cfg)


@pytest.mark.parametrize("name", ["nuclei_instance", "nuclei_semantic", "trees_detection", "mnist"])
def test_tiny_sets_name_their_command(inside, name):
    cfg = Config.fromfile(REPOSITORY / "configs" / "_base_" / "datasets" / f"{name}.py")
    cfg.merge_from_dict({"train_dataloader.dataset.data_root": "else where/"})
    text = message(cfg, ("train",))
    assert f"Make it: mmvitconv data {cfg.data_source} --out-dir 'else where/'" in text
    assert cfg.data_source in DATA_SETS
    assert "Put COCO" not in text


def test_ade20k(inside):
    dataset = {
        "type": "mmseg.ADE20KDataset",
        "data_root": "data/ade/ADEChallengeData2016",
        "data_prefix": {"img_path": "images/training", "seg_map_path": "annotations/training"},
    }
    cfg = {"train_dataloader": {"dataset": dataset}}
    text = message(cfg)
    assert "data/ade/ADEChallengeData2016/images/training" in text
    assert "annotations/{training,validation}/*.png" in text
    assert "mmvitconv check CONFIG" in text
    for kind in ("images", "annotations"):
        touch(f"data/ade/ADEChallengeData2016/{kind}/training/a.png")
    check_data(cfg)


def test_imagenet_takes_the_split_as_folder(inside):
    dataset = {"type": "ImageNet", "data_root": "data/imagenet", "split": "train"}
    cfg = {"default_scope": "mmpretrain", "train_dataloader": {"dataset": dataset}}
    text = message(cfg)
    assert "data/imagenet/train" in text
    assert "Put ImageNet-1k" in text
    touch("data/imagenet/train/n01440764/a.JPEG")
    check_data(cfg)
    dataset["data_prefix"] = "elsewhere"
    assert "data/imagenet/elsewhere" in message(cfg)


def test_mmpretrain_expands_home(inside, monkeypatch):
    monkeypatch.setenv("HOME", str(inside))
    touch("images/cat/a.png")
    dataset = {"type": "CustomDataset", "data_prefix": "~/images"}
    check_data({"default_scope": "mmpretrain", "train_dataloader": {"dataset": dataset}})
    assert "~/images" in message({"train_dataloader": {"dataset": dataset}})


def test_own_data_without_prefix_or_root():
    dataset = {"type": "MyDataset", "data_root": "my/data"}
    text = message({"train_dataloader": {"dataset": dataset}})
    assert "\n  my  (needed: my/data)" in text
    assert "a data set of your own" in text
    dataset = {"type": "CocoDataset", "ann_file": "a.json"}
    text = message({"train_dataloader": {"dataset": dataset}})
    assert "train_dataloader.dataset.ann_file=/your/file" in text


def test_broken_link_is_told(inside):
    (inside / "data").mkdir()
    (inside / "data" / "coco").symlink_to(inside / "nowhere")
    assert "data/coco (a link that points nowhere)" in message(coco_config())


def test_remote_data_are_left_alone():
    for dataset in (
        coco("s3://bucket/coco"),
        coco("data/coco", backend_args={"backend": "petrel"}),
        coco("", ann_file="s3://bucket/a.json", data_prefix={"img": "https://host/images"}),
    ):
        check_data({"train_dataloader": {"dataset": dataset}})
    check_data({"val_evaluator": {"type": "CocoMetric", "ann_file": "s3://bucket/a.json"}})
    dataset = coco(backend_args={"backend": "local"})
    assert "data/coco" in message({"train_dataloader": {"dataset": dataset}})


def test_unknown_split():
    with pytest.raises(UserError, match="unknown split 'valid'"):
        check_data({}, ("valid",))


def test_fast_and_without_heavy_imports(inside):
    cfg = coco_config()
    started = time.perf_counter()
    for _ in range(20):
        find_missing(cfg, ("train", "val", "test"))
    assert (time.perf_counter() - started) / 20 < 0.05
    code = (
        "import sys; import mmvitconv.datasets.layout; "
        "print([m for m in ('torch', 'mmdet', 'mmseg', 'mmpretrain', 'cv2') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
