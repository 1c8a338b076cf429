"""Steps of a pipeline that fail, or stand in the wrong place: each is named by its place."""

from copy import deepcopy

import pytest
from mmcv.transforms import BaseTransform
from mmengine.config import Config
from mmengine.registry import TRANSFORMS

from mmvitconv.checks.config import check_config
from mmvitconv.errors import UserError

PIPELINE = "train_dataloader.dataset.pipeline"


def check(cfg):
    return check_config(Config(deepcopy(cfg)))


def pipeline_of(cfg):
    return cfg["train_dataloader"]["dataset"]["pipeline"]


def put(number, **step):
    """A change of a config: a step at a place of the pipeline of training."""
    return lambda cfg: pipeline_of(cfg).insert(number, step)


def move(source, target):
    return lambda cfg: pipeline_of(cfg).insert(target, pipeline_of(cfg).pop(source))


def drop(number):
    return lambda cfg: pipeline_of(cfg).pop(number)


DEAD = [
    # load, annotations, flip, pack
    ("detection", put(4, type="mmdet.Resize", scale=(64, 64)), "4 (Resize): on 8 of 8 samples",
     "PackDetInputs must be the last step, and it is train_dataloader.dataset.pipeline.3"),
    ("segmentation", put(4, type="mmseg.Resize", scale=(64, 64)), "4 (Resize)",
     "it looks for an image that train_dataloader.dataset.pipeline.3 (PackSegInputs) has packed"),
    ("detection", drop(0), "0 (LoadAnnotations): on 8 of 8 samples: KeyError: ori_shape",
     "begin with LoadImageFromFile"),
    ("detection", put(2, type="RandomApply", prob=1.0, transforms=[
        {"type": "mmdet.Resize", "scale": (64, 64)}, {"type": "mmdet.CopyPaste"}]),
     "2.transforms.1 (CopyPaste)", "AssertionError: assert 'mix_results' in results"),
    ("detection", move(1, 3), "2 (PackDetInputs): the step changes images before", ""),
    ("detection", move(1, 2), "1 (RandomFlip): the step changes images before LoadAnnotations", ""),
    ("segmentation", move(1, 2), "1 (RandomFlip): the step changes images before", ""),
    ("segmentation", put(0, type="RandomChoice", transforms=[[
        {"type": "mmseg.Resize", "scale": (64, 64)}]]),
     "0 (RandomChoice): the step changes images before", ""),
    ("segmentation", put(2, type="mmseg.RandomCrop", crop_size=(64, 64), cat_max_ratio="0.7"),
     "2 (RandomCrop)", ""),
    ("classification", put(1, type="Collect", keys=["gt_box"]), "1 (Collect)", "gt_box"),
    ("classification", put(1, type="Collect", keys=["angle"]), "1 (Collect)",
     "in front of it knows 'angle'"),
]  # fmt: skip


@TRANSFORMS.register_module(force=True)
class Collect(BaseTransform):
    """Asks for keys."""

    def __init__(self, keys):
        self.keys = keys

    def transform(self, results):
        return {key: results[key] for key in self.keys}


@pytest.mark.parametrize(("task", "change", "place", "advice"), DEAD)
def test_a_step_that_dies_is_named(make, task, change, place, advice):
    _, cfg = make(task)
    change(cfg)
    sentences = check(cfg).sentences()
    assert any(f"{PIPELINE}.{place}" in text and advice in text for text in sentences), sentences


REFUSED = [
    (put(2, type="mmdet.RandomCrop", crop_size=(0.5, 2), crop_type="absolute"),
     r"pipeline.2: RandomCrop\(crop_size=\(0.5, 2\).*AssertionError: assert isinstance"),
    (put(2, type="mmdet.RandomFlip", prob="0.5"), r"pipeline.2: RandomFlip\(prob='0.5'"),
    (put(2, tpye="mmdet.Resize"), "pipeline.2: "),
    (lambda cfg: pipeline_of(cfg).insert(2, "Resize"), "pipeline.2 must be a dict with a type"),
    (lambda cfg: cfg["train_dataloader"]["dataset"].update(pipeline=pipeline_of(cfg)[0]),
     "pipeline must be a list of dicts"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_a_step_that_cannot_be_built_is_named(make, change, words):
    _, cfg = make("detection")
    change(cfg)
    with pytest.raises(UserError, match=f"cannot be built: {PIPELINE.rpartition('.')[0]}.{words}"):
        check(cfg)


@pytest.mark.parametrize("task", ["detection", "segmentation", "classification"])
def test_the_steps_of_an_evaluation_are_tried_too(make, task):
    _, cfg = make(task)
    steps = cfg["val_dataloader"]["dataset"]["pipeline"]
    steps.insert(1, {"type": "Collect", "keys": ["angle"]})
    (sentence,) = check(cfg).sentences()
    assert sentence.startswith("val_dataloader.dataset.pipeline.1 (Collect): on ")


def test_annotations_may_come_late_in_an_evaluation(make):
    _, cfg = make("detection")
    steps = cfg["val_dataloader"]["dataset"]["pipeline"]
    steps.insert(1, {"type": "mmdet.Resize", "scale": (64, 64)})
    assert check(cfg).errors == {}


@TRANSFORMS.register_module(force=True)
class FailsOn(BaseTransform):
    """Fails on, or leaves out, some of the images."""

    def __init__(self, share, leaves_out=False):
        self.share, self.leaves_out, self.seen = share, leaves_out, 0

    def transform(self, results):
        self.seen += 1
        if self.seen % 8 < self.share:
            if self.leaves_out:
                return None
            raise ValueError("no such colour")
        return results


@pytest.mark.parametrize(
    ("share", "leaves_out", "word"),
    [(8, False, "errors"), (8, True, "errors"), (1, False, "warnings"), (5, True, "warnings")],
)
def test_some_samples_may_fail(make, share, leaves_out, word):
    _, cfg = make("segmentation")  # 8 samples, of which training may leave out 4
    put(2, type="FailsOn", share=share, leaves_out=leaves_out)(cfg)
    report = check(cfg)
    what = "the step leaves the sample out" if leaves_out else "no such colour"
    (sentence,) = report.sentences(word)
    assert sentence == f"{PIPELINE}.2 (FailsOn): on {share} of 8 samples: {what}"
    assert not getattr(report, "warnings" if word == "errors" else "errors")
