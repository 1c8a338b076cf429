from copy import deepcopy

import pytest
from mmengine.config import Config

from mmvitconv.checks.agreement import Facts
from mmvitconv.checks.annotations import Report
from mmvitconv.checks.ignored import check_ignored

CFG = {
    "train_dataloader": {"dataset": {"type": "X", "pipeline": [{"type": "LoadAnnotations"}]}},
    "val_dataloader": {"dataset": {"type": "X", "pipeline": [{"type": "LoadAnnotations"}]}},
    "model": {"decode_head": {}, "auxiliary_head": [{}]},
    "val_evaluator": {"type": "IoUMetric"},
}


def check(change, ignored=255, reduces=(False, False)):
    cfg = Config(deepcopy(CFG))
    change(cfg)
    facts = [
        Facts(f"{split}_dataloader.dataset", split, ("sky", "sea"), 2, 9, ignored, reduces_zero)
        for split, reduces_zero in zip(("train", "val"), reduces, strict=True)
    ]
    report = Report()
    check_ignored(report, cfg, facts)
    return report


def everywhere(number):
    def change(cfg):
        for part in (cfg.model.decode_head, cfg.model.auxiliary_head[0], cfg.val_evaluator):
            part.ignore_index = number

    return change


def loads(number, value):
    def change(cfg):
        split = ("train", "val")[number]
        cfg[f"{split}_dataloader"].dataset.pipeline[0].reduce_zero_label = value

    return change


def nothing(cfg):
    pass


@pytest.mark.parametrize(
    ("change", "settings", "words"),
    [
        (lambda c: c.model.decode_head.update(ignore_index=0), {},
         "model.decode_head.ignore_index: 0 is ignored, but it is the number of the class 'sky'"),
        (lambda c: c.val_evaluator.update(ignore_index=1), {},
         "val_evaluator.ignore_index: 1 is ignored, but it is the number of the class 'sea'"),
        (lambda c: c.model.auxiliary_head[0].update(ignore_index=-100), {},
         "model.auxiliary_head.0.ignore_index: -100 is ignored here, but 255 in train_dataloader"),
        (lambda c: c.update(data_preprocessor={"seg_pad_val": 9}), {},
         "data_preprocessor.seg_pad_val: what is put around smaller images is labelled 9, an unk"),
        (nothing, {"reduces": (True, False)},
         "train_dataloader.dataset.reduce_zero_label: it is True here, but False in val_dataload"),
        (loads(1, True), {}, "val_dataloader.dataset.pipeline.0.reduce_zero_label: it is True"),
    ],
)  # fmt: skip
def test_places_that_differ_are_named(change, settings, words):
    report = check(change, **settings)
    (sentence,) = report.sentences()
    assert sentence.startswith(words)
    assert report.warnings == {}


def test_a_class_that_is_ignored_everywhere_is_a_warning():
    report = check(everywhere(0), ignored=0)
    assert report.errors == {}
    (sentence, *_) = report.sentences("warnings")
    assert "'sky', of which nothing is learnt or scored: write ignore_index=255" in sentence


@pytest.mark.parametrize(
    ("change", "settings"),
    [
        (nothing, {}),
        (everywhere(254), {"ignored": 254}),
        (lambda c: c.model.decode_head.update(ignore_index=None), {}),
        (loads(0, True), {"reduces": (True, True)}),
    ],
)
def test_places_that_agree(change, settings):
    assert check(change, **settings) == Report()


def test_padding_with_a_class_is_a_warning():
    report = check(lambda cfg: cfg.model.update(data_preprocessor={"seg_pad_val": 0}))
    assert report.errors == {}
    (sentence,) = report.sentences("warnings")
    assert "is labelled 0, the class 'sky', instead of a number that is ignored" in sentence
