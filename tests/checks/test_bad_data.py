import json
import logging
import os
import pickle
from copy import deepcopy
from types import SimpleNamespace

import broken_data
import numpy as np
import pytest
import torch
from broken_data import CASES, Case, dataset, images, json_of, label_map, loaders
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import DATASETS, DefaultScope
from mmengine.runner import Runner
from PIL import Image
from torch.utils.data import DataLoader

from mmvitconv.checks.bad_data import BadDataError, BadDataHook, GuardedPipeline
from mmvitconv.checks.samples import Roots, innermost
from mmvitconv.cli import run
from mmvitconv.errors import UserError


class Drive:
    """The parts of a runner that the hook uses, and an epoch of its loaders."""

    def __init__(self, cfg, folder, splits=("train", "val")):
        with DefaultScope.overwrite_default_scope(cfg["default_scope"]):
            made = {s: Runner.build_dataloader(deepcopy(cfg[f"{s}_dataloader"]), 0) for s in splits}
        self.train_loop, self.val_loop, self.test_loop = (
            SimpleNamespace(dataloader=made[s]) if s in made else None
            for s in ("train", "val", "test")
        )
        self.log_dir = str(folder)
        self.model = torch.nn.Identity()
        self.lines = []
        self.logger = logging.Logger("drive")
        self.logger.addFilter(lambda record: self.lines.append(record.getMessage()))

    def train(self, hook, epochs=1):
        """Return the names of what is trained on."""
        shown = []
        hook.before_train(self)
        for _ in range(epochs):
            hook.before_train_epoch(self)
            for batch in self.train_loop.dataloader:
                shown += names(batch)
                hook.after_train_iter(self, 0)
            hook.after_train_epoch(self)
        hook.after_train(self)
        return shown

    def validate(self, hook):
        """Return the names of what is evaluated."""
        shown = []
        hook.before_val(self)
        for batch in self.val_loop.dataloader:
            shown += names(batch)
            hook.after_val_iter(self, 0)
        return shown

    def log(self, *words):
        """Return the lines of the log that have all of the words."""
        return [line for line in self.lines if all(str(word) in line for word in words)]


def names(batch):
    return [sample.img_path for sample in batch["data_samples"]]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_training_follows_the_policy(make, tmp_path, case: Case, count):
    root, cfg = make(case.task)
    file = case.defect.apply(root, images(case.task, root)[3])
    drive = Drive(cfg, tmp_path)
    count("broken data sets trained on")
    if case.defect.run == "stops":
        with pytest.raises(UserError, match="outside the data root") as raised:
            drive.train(BadDataHook())
        assert "instances_train.json: sample" in str(raised.value)
        return
    shown = drive.train(BadDataHook(), epochs=2)
    assert len(shown) == 2 * len(drive.train_loop.dataloader)
    summaries = drive.log("bad data so far")
    if case.defect.run == "left out":
        (line,) = drive.log("train: left out", file)
        assert case.defect.kind in line
        assert str(file) not in shown
        assert len(summaries) == 1
        records = map(json.loads, (tmp_path / "bad_data_rank0.jsonl").open())
        assert [r["file"] for r in records if r["action"] == "left out"] == [str(file)]
    else:
        assert not drive.log("left out:")
        if case.defect.run == "at start":
            assert drive.log("train: ", case.defect.kind)
        elif case.defect.run == "converted":
            assert drive.log("converted on reading", file)
            assert len(summaries) == 1
        else:
            assert not drive.lines


@pytest.mark.parametrize(
    "case", [case for case in CASES if case.defect.run in ("left out", "stops")], ids=str
)
def test_evaluation_leaves_nothing_out(make, tmp_path, case: Case):
    root, cfg = make(case.task)
    file = case.defect.apply(root, images(case.task, root, "val")[1])
    drive = Drive(cfg, tmp_path)
    with pytest.raises(BadDataError) as raised:
        drive.validate(BadDataHook())
    assert "\n" not in str(raised.value)
    text = str(raised.value)
    in_json = case.task == "detection" and str(json_of(root, "val")) in text and file.name in text
    assert str(file) in text or in_json or case.defect.run == "stops"
    assert "mmvitconv check" in str(raised.value) or case.defect.run == "stops"


def break_some(root, task="detection", numbers=(2, 5)):
    """Damage some training images; returns their paths."""
    broken = [images(task, root)[number] for number in numbers]
    for path in broken:
        path.write_bytes(b"no image")
    return [str(path) for path in broken]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("persistent", [False, True])
def test_worker_processes_report_to_the_main_one(make, tmp_path, workers, persistent):
    _, cfg = make("detection", workers)
    broken = break_some(tmp_path / "data")
    cfg["train_dataloader"].update(persistent_workers=persistent and workers > 0)
    drive = Drive(cfg, tmp_path)
    shown = drive.train(BadDataHook(), epochs=3)
    assert len(shown) == 24
    assert not set(shown) & set(broken)
    for path in broken:
        assert len(drive.log("left out", path, "cannot be decoded")) == 1
    assert drive.log("bad data so far", "train: 2 left out")


def contents(sample):
    """The tensors of a data sample."""
    if "gt_instances" in sample:
        return [sample.gt_instances.bboxes.tensor, sample.gt_instances.masks.masks]
    return [sample.gt_sem_seg.data if "gt_sem_seg" in sample else sample.gt_label]


@pytest.mark.parametrize("task", ["detection", "segmentation", "classification"])
def test_clean_data_are_left_as_they_are(make, tmp_path, task):
    _, cfg = make(task)
    results = []
    for hook in (BadDataHook(), None):
        drive = Drive(cfg, tmp_path)
        if hook:
            hook.before_train(drive)
            assert isinstance(drive.train_loop.dataloader.dataset.pipeline, GuardedPipeline)
        np.random.seed(1)
        torch.manual_seed(1)
        batches = [
            (batch["inputs"], batch["data_samples"]) for batch in drive.train_loop.dataloader
        ]
        results.append((batches, np.random.rand(), torch.rand(1)))
        assert not drive.lines
    assert results[0][1:] == results[1][1:]  # the random states are the same, too
    for (inputs, samples), (others, other_samples) in zip(*(r[0] for r in results), strict=True):
        assert torch.equal(inputs[0], others[0])
        assert samples[0].metainfo == other_samples[0].metainfo
        for left, right in zip(contents(samples[0]), contents(other_samples[0]), strict=True):
            assert torch.equal(torch.as_tensor(left), torch.as_tensor(right))
    assert not (tmp_path / "bad_data_rank0.jsonl").exists()


def test_the_other_sample_follows_the_random_state(make, tmp_path):
    _, cfg = make("detection")
    break_some(tmp_path / "data", numbers=(0, 3))
    cfg["train_dataloader"]["sampler"]["shuffle"] = False
    orders = []
    for seed in (1, 1, 2):
        np.random.seed(seed)
        orders.append(Drive(cfg, tmp_path).train(BadDataHook()))
    assert orders[0] == orders[1]
    assert orders[0] != orders[2]


def test_policy_refuse(make, tmp_path):
    _, cfg = make("detection")
    (broken,) = break_some(tmp_path / "data", numbers=(1,))
    with pytest.raises(BadDataError, match="policy='refuse'") as raised:
        Drive(cfg, tmp_path).train(BadDataHook(policy="refuse"))
    assert str(raised.value).startswith(broken)


def test_policy_warn_uses_what_can_be_loaded(make, tmp_path):
    root, cfg = make("segmentation")
    paths = images("segmentation", root)
    Image.new("L", (5, 5)).save(label_map(root, paths[0]))
    Image.new("RGB", (192, 192)).save(label_map(root, paths[2]))
    values = np.full((192, 192), 7, np.uint8)
    Image.fromarray(values).save(label_map(root, images("segmentation", root, "val")[0]))
    drive = Drive(cfg, tmp_path)
    hook = BadDataHook(policy="warn", evaluation_policy="warn")
    shown = drive.train(hook)
    assert sorted(shown) == [str(path) for path in paths]
    assert drive.log("train: used:", "another size", label_map(root, paths[0]))
    assert drive.log("train: used:", "colours", label_map(root, paths[2]))
    assert len(drive.validate(hook)) == 2
    assert drive.log("val: used:", "unknown label")
    paths[1].unlink()
    paths[1].write_bytes(b"")
    with pytest.raises(BadDataError, match="file is empty"):
        drive.train(hook)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_wrong_folder_does_not_train_on_nothing(make, tmp_path, workers):
    root, cfg = make("detection", workers)
    for path in images("detection", root):
        path.unlink()
    with pytest.raises(BadDataError, match="are the paths right") as raised:
        Drive(cfg, tmp_path).train(BadDataHook())
    # also what a worker process sends with its traceback is one sentence
    assert "\n" not in str(raised.value)
    assert "Traceback" not in str(raised.value)
    assert "file is missing" in str(raised.value)


@pytest.mark.parametrize("workers", [0, 3])
def test_max_bad_counts_the_files_of_all_workers(make, tmp_path, workers):
    _, cfg = make("classification", workers)
    broken = break_some(tmp_path / "data", "classification", range(0, 16, 3))
    assert len(broken) == 6
    drive = Drive(cfg, tmp_path)
    drive.train(BadDataHook(max_bad=6), epochs=2)
    assert drive.log("bad data so far", "6 left out")
    for max_bad in (5, 0.33):
        (tmp_path / str(max_bad)).mkdir()
        drive = Drive(cfg, tmp_path / str(max_bad))
        with pytest.raises(BadDataError, match="of 16 training samples had to be left out"):
            drive.train(BadDataHook(max_bad=max_bad))  # one epoch: no worker sees all


def test_default_of_max_bad():
    hook = BadDataHook()
    limits = {1: 0, 8: 4, 100: 10, 5000: 50, 1_000_000: 10_000}
    assert {size: hook.limit(size) for size in limits} == limits
    assert BadDataHook(max_bad=0.5).limit(10) == 5
    assert BadDataHook(max_bad=0).limit(10) == 0


@pytest.mark.parametrize(
    "arguments",
    [
        {"policy": "ignore"},
        {"evaluation_policy": "skip"},
        {"max_bad": -1},
        {"max_bad": 1.5},
        {"max_bad": "10"},
        {"max_bad": True},
    ],
)
def test_illegal_arguments(arguments):
    (name,) = arguments
    with pytest.raises(UserError, match=name):
        BadDataHook(**arguments)


def wrapped(task, root, kind):
    leaf = dataset(task, root)
    return {
        "repeat": {"type": "RepeatDataset", "dataset": leaf, "times": 2},
        "concat": {"type": "ConcatDataset", "datasets": [leaf, deepcopy(leaf)]},
        "balanced": {"type": "ClassBalancedDataset", "dataset": leaf, "oversample_thr": 1e-3},
        "nested": {
            "type": "RepeatDataset",
            "times": 1,
            "dataset": {"type": "ConcatDataset", "datasets": [leaf]},
        },
        "mixed": {
            "type": "mmdet.MultiImageMixDataset",
            "dataset": {**leaf, "pipeline": leaf["pipeline"][:2]},
            "pipeline": leaf["pipeline"][2:],
        },
    }[kind]


@pytest.mark.parametrize("kind", ["repeat", "concat", "balanced", "nested", "mixed", "sliced"])
@pytest.mark.parametrize("workers", [0, 2])
def test_wrapped_datasets_are_guarded(make, tmp_path, kind, workers):
    root, cfg = make("detection", workers)
    if kind == "sliced":
        cfg["train_dataloader"]["num_batch_per_epoch"] = 8
    else:
        cfg["train_dataloader"]["dataset"] = wrapped("detection", root, kind)
    broken = break_some(root)
    drive = Drive(cfg, tmp_path)
    shown = drive.train(BadDataHook(), epochs=2)
    assert len(shown) == 2 * len(drive.train_loop.dataloader)
    assert not set(shown) & set(broken)
    for path in broken:
        assert len(drive.log("left out", path)) == 1


def test_a_pipeline_that_another_hook_puts_in_is_guarded(make, tmp_path):
    root, cfg = make("detection")
    broken = break_some(root)
    drive = Drive(cfg, tmp_path)
    hook = BadDataHook()
    drive.train(hook)
    inner = drive.train_loop.dataloader.dataset
    with DefaultScope.overwrite_default_scope("mmdet"):
        inner.pipeline = Compose(dataset("detection", root)["pipeline"])
    hook.before_train_epoch(drive)
    shown = [name for batch in drive.train_loop.dataloader for name in names(batch)]
    assert not set(shown) & set(broken)
    assert isinstance(inner.pipeline, GuardedPipeline)
    hook.before_train_epoch(drive)
    assert not isinstance(inner.pipeline.original, GuardedPipeline)


def test_guarded_datasets_can_be_copied_and_pickled(make, tmp_path):
    drive = Drive(make("detection")[1], tmp_path)
    (broken, _) = break_some(tmp_path / "data")
    BadDataHook().before_train(drive)
    inner = drive.train_loop.dataloader.dataset
    for other in (deepcopy(inner), pickle.loads(pickle.dumps(inner)), inner.get_subset([1, 2])):
        loader = DataLoader(other, collate_fn=lambda batch: batch, num_workers=0)
        assert broken not in [item[0]["data_samples"].img_path for item in loader]


def test_a_bad_sentence_is_cut_out_of_a_traceback():
    text = (
        "Caught BadDataError in DataLoader worker process 0.\nOriginal Traceback (most recent call "
        'last):\n  File "x.py", line 1\nmmvitconv.checks.bad_data.BadDataError: a.jpg: is gone\n'
    )
    assert str(BadDataError(text)) == "a.jpg: is gone"
    assert str(BadDataError("Caught a cold: a.jpg")) == "Caught a cold: a.jpg"


def test_failures_that_are_not_the_data_pass(make, tmp_path):
    drive = Drive(make("detection")[1], tmp_path)

    def fail(_):
        raise OSError(24, "Too many open files")

    drive.train_loop.dataloader.dataset.pipeline = fail
    with pytest.raises(OSError, match="Too many open files"):
        drive.train(BadDataHook())


def write_list(root, task, names):
    """Replace the listing of the folder by an annotation file; returns what to change."""
    lines = [f"{name} 0" if task == "classification" else name for name in names]
    (root / "list.txt").write_text("\n".join(lines) + "\n")
    return {"ann_file": "list.txt"}


@pytest.mark.parametrize("task", ["segmentation", "classification"])
@pytest.mark.parametrize("name", ["../../../outside/a", "/etc/passwd", "a/../../../../b"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_lists_cannot_leave_the_data_root(make, tmp_path, task, name, split):
    root, cfg = make(task)
    good = images(task, root, split)[0]
    good = f"{good.parent.name}/{good.name}" if task == "classification" else good.stem
    cfg[f"{split}_dataloader"]["dataset"].update(write_list(root, task, [good, name]))
    with pytest.raises(BadDataError, match="outside the data root") as raised:
        Drive(cfg, tmp_path).train(BadDataHook())
    assert "list.txt: sample 1 names the file" in str(raised.value)
    # without the look at the beginning, the sample itself is refused before its file is opened
    drive = Drive(cfg, tmp_path)
    hook = BadDataHook(survey=False)
    start = drive.train if split == "train" else drive.validate
    with pytest.raises(BadDataError, match="outside the data root"):
        start(hook)


def roots_of(**settings):
    return Roots(SimpleNamespace(**settings))


@pytest.mark.parametrize(
    ("settings", "legal", "illegal"),
    [
        (
            {"data_root": "data/x/", "data_prefix": {"img": "data/x/train"}},
            ["data/x/train/a.jpg", "data/x/val/a.jpg", "./data/x/b..c.jpg", "data/x/t/../v/a.jpg"],
            ["data/xy/a.jpg", "data/x/../y/a.jpg", "/etc/passwd", "data/x/train/../../../a.jpg",
             "http://example.org/a.jpg", "data"],
        ),
        (
            {"data_root": "/r", "data_prefix": {"img": "/elsewhere/img", "seg": "/r/seg"}},
            ["/elsewhere/img/a.jpg", "/r/b.jpg"],
            ["/elsewhere/a.jpg", "/r/../b.jpg"],
        ),
        ({"data_root": "../up", "data_prefix": {}}, ["../up/a.jpg"], ["../a.jpg", "../up/../a"]),
        ({"data_root": ".", "data_prefix": {"img": ""}}, ["a.jpg"], ["../a.jpg", "s3://b/a.jpg"]),
        ({"data_root": None, "data_prefix": {"img": "i"}}, ["i/a.jpg"], ["j/a.jpg"]),
        ({"data_root": "", "data_prefix": {"img": "i", "seg": ""}}, ["/anywhere.jpg"], []),
        ({"data_root": "", "data_prefix": {}}, ["/anywhere.jpg"], []),
        ({"data_root": "s3://bucket/x"}, ["s3://bucket/y/a.jpg"], []),
        (
            {"data_root": "data/x", "backend_args": {"backend": "petrel"}},
            ["s3://bucket/y/a.jpg"],
            [],
        ),
    ],
)  # fmt: skip
def test_roots(settings, legal, illegal):
    roots = roots_of(**settings)
    for path in legal:
        roots.check({"img_path": path, "note": "/etc/passwd"})
    for path in illegal:
        for sample in (
            {"img_path": path},
            {"img_path": [*legal[:1], path]},
            {"img_path": legal[0], "seg_map_path": path},
            {"images": [{"img_path": path}]},
        ):
            with pytest.raises(UserError, match="outside the data root"):
                roots.check(sample)


def test_links_inside_the_root_may_lead_anywhere(make, tmp_path):
    root, cfg = make("detection")
    (root / "train").rename(tmp_path / "elsewhere")
    os.symlink(tmp_path / "elsewhere", root / "train")
    drive = Drive(cfg, tmp_path)
    assert len(drive.train(BadDataHook())) == 8


def test_missing_validation_files_are_named_when_training_begins(make, tmp_path):
    root, cfg = make("detection")
    path = images("detection", root, "val")[1]
    path.unlink()
    drive = Drive(cfg, tmp_path)
    with pytest.raises(BadDataError, match="1 files of the val data are missing") as raised:
        BadDataHook().before_train(drive)
    assert str(path) in str(raised.value)


def test_a_class_without_samples_is_named(make, tmp_path):
    root, cfg = make("detection")
    content = json.loads(broken_data.json_of(root).read_text())
    content["categories"].append({"id": 2, "name": "ghost"})
    for split in ("train", "val"):
        other = json.loads(broken_data.json_of(root, split).read_text())
        other["categories"] = content["categories"]
        broken_data.json_of(root, split).write_text(json.dumps(other))
    for split in ("train", "val"):
        cfg[f"{split}_dataloader"]["dataset"]["metainfo"] = {"classes": ("nucleus", "ghost")}
    drive = Drive(cfg, tmp_path)
    drive.train(BadDataHook())
    assert drive.log("train: 1 of 2 classes have no sample: ghost")
    assert drive.log("val: 1 of 2 classes have no sample: ghost")


def test_class_that_the_json_lacks_is_refused(make, tmp_path):
    _, cfg = make("detection")
    cfg["train_dataloader"]["dataset"]["metainfo"] = {"classes": ("ghost", "nucleus")}
    with pytest.raises(BadDataError, match=r"ghost.*class is missing from the categories"):
        Drive(cfg, tmp_path).train(BadDataHook())


def test_class_folders_that_differ_are_refused(make, tmp_path):
    root, cfg = make("classification")
    for path in images("classification", root, "val"):
        if path.parent.name == "0":
            path.unlink()
    (root / "val" / "0").rmdir()
    with pytest.raises(BadDataError, match="lacks the class folders 0 of the other split"):
        Drive(cfg, tmp_path).train(BadDataHook())


def test_class_numbers_of_a_list(make, tmp_path):
    root, cfg = make("classification")
    lines = [f"{path.parent.name}/{path.name} {n % 3}" for n, path in
             enumerate(images("classification", root))]  # fmt: skip
    (root / "list.txt").write_text("\n".join(lines))
    cfg["train_dataloader"]["dataset"].update(ann_file="list.txt", classes=["zero", "one"])
    drive = Drive(cfg, tmp_path)
    assert len(drive.train(BadDataHook())) == 16
    assert len(drive.log("left out", "class number is unknown", "2, legal are 0 to 1")) == 5


def test_reduce_zero_label(make, tmp_path):
    root, cfg = make("segmentation")
    for split in ("train", "val"):
        cfg[f"{split}_dataloader"]["dataset"]["reduce_zero_label"] = True
    image = images("segmentation", root)[0]
    Image.fromarray(np.full((192, 192), 2, np.uint8)).save(label_map(root, image))
    drive = Drive(cfg, tmp_path)
    drive.train(BadDataHook())  # 0 is ignored, 1 and 2 are the two classes
    assert not drive.lines
    Image.fromarray(np.full((192, 192), 3, np.uint8)).save(label_map(root, image))
    drive = Drive(cfg, tmp_path)
    drive.train(BadDataHook())
    assert drive.log("left out", "unknown label", "2, legal are 0 to 1 and 255")


def test_innermost_finds_each_dataset_once(make):
    root, _ = make("detection")
    with DefaultScope.overwrite_default_scope("mmdet"):
        leaf = DATASETS.build(dataset("detection", root))
    double = SimpleNamespace(datasets=[leaf, SimpleNamespace(_dataset=leaf)])
    assert list(innermost(SimpleNamespace(dataset=leaf))) == [leaf]
    assert list(innermost(leaf)) == [leaf]
    assert len(list(innermost(double.datasets[0]))) == 1


def test_as_a_user(make, tmp_path, capfd):
    root, _ = make("classification")
    config = tmp_path / "config.py"
    work_dir = tmp_path / "work"
    data = loaders("classification", root, workers=2)
    data["train_dataloader"]["batch_size"] = 4  # for batch norm
    evaluation = {"test_dataloader": data["val_dataloader"], "val_cfg": {}, "test_cfg": {}}
    evaluation |= {key: {"type": "Accuracy"} for key in ("val_evaluator", "test_evaluator")}
    settings = {**broken_data.CLASSIFIER, **data, **evaluation, "work_dir": str(work_dir)}
    Config(settings).dump(config)
    (broken,) = break_some(root, "classification", numbers=(4,))
    assert run("train", str(config)) == 0
    (log,) = work_dir.glob("*/*.log")
    assert f"bad data: train: left out: {broken}: file cannot be decoded" in log.read_text()
    capfd.readouterr()

    path = images("classification", root, "val")[2]
    path.write_bytes(b"")
    for start in (
        lambda: run("train", str(config), "--work-dir", str(tmp_path / "other")),
        lambda: run("test", str(config), str(work_dir / "epoch_1.pth")),
    ):
        assert start() == 1
        (line,) = capfd.readouterr().err.strip().splitlines()[-1:]
        assert "error:" in line
        assert f"{path}: file is empty; no sample of the" in line
        assert "Traceback" not in line
