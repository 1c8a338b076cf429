"""Values that cannot be right."""

import pytest

from mmvitconv.checks.annotations import Report
from mmvitconv.checks.values import check_values
from mmvitconv.datasets.layout import prepare_config
from mmvitconv.engine.configuration import load_config
from mmvitconv.errors import UserError

DETECTOR = "maskrcnn_fcvit_tiny_nuclei"
SEGMENTOR = "upernet_fcvit_tiny_nuclei"


def look(name, options):
    cfg = load_config(name)
    cfg.merge_from_dict(options)
    report = Report()
    check_values(report, cfg, ("train", "val", "test"))
    return report


@pytest.mark.parametrize("name", [DETECTOR, SEGMENTOR, "fcvit_tiny_mnist"])
def test_right_values(name):
    report = look(name, {})
    assert (report.errors, report.warnings) == ({}, {})


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        (DETECTOR, {"train_cfg.max_epochs": 0}, "at least 1, got 0"),
        (DETECTOR, {"train_cfg.max_epochs": "12"}, "at least 1, got '12'"),
        (DETECTOR, {"train_dataloader.batch_size": 0}, "train_dataloader.batch_size: it must be"),
        (DETECTOR, {"val_dataloader.num_workers": -1}, "at least 0, got -1"),
        (DETECTOR, {"optim_wrapper.optimizer.lr": "1e-3"}, "a number of at least 0, got '1e-3'"),
        (DETECTOR, {"model.test_cfg.rcnn.score_thr": 1.5}, "between 0 and 1, got 1.5"),
        (DETECTOR, {"model.test_cfg.rcnn.max_per_img": 0}, "at least 1, or -1 for all: 0"),
        (DETECTOR, {"val_dataloader.sampler": None}, "it has no sampler: write sampler=dict("),
        (DETECTOR, {"load_from": "gone.pth"}, "load_from: there is no file 'gone.pth'"),
        (
            DETECTOR,
            {"model.backbone.init_cfg": {"type": "Pretrained", "checkpoint": "gone.pth"}},
            "model.backbone.init_cfg.checkpoint: there is no file 'gone.pth'",
        ),
        (DETECTOR, {"optim_wrapper.clip_grad": {"max_norm": -1}}, "at least 0, got -1"),
        (DETECTOR, {"optim_wrapper.optimizer.lr": -0.1}, "a number of at least 0, got -0.1"),
        (
            DETECTOR,
            {"train_dataloader.num_workers": 0, "train_dataloader.persistent_workers": True},
            "write persistent_workers=False",
        ),
        (DETECTOR, {"model.data_preprocessor.std": [1.0]}, "mean has 3 numbers and std 1"),
        (
            DETECTOR,
            {"model.data_preprocessor.mean": [1.0] * 4, "model.data_preprocessor.std": [1.0] * 4},
            "mean and std have 4 numbers, but images have 3",
        ),
        (
            SEGMENTOR,
            {"model.decode_head.loss_decode.class_weight": [1.0, 1.0, 1.0]},
            "class_weight has 3 numbers, but model.decode_head.num_classes is 2",
        ),
    ],
)
def test_wrong_values(name, options, words):
    (sentence,) = look(name, options).sentences()
    assert words in sentence


@pytest.mark.parametrize(
    ("prob", "is_wrong"), [(1.5, True), (-0.1, True), ([0.7, 0.7], True), ([0.25, 0.75], False)]
)
def test_probabilities(prob, is_wrong):
    cfg = load_config(DETECTOR)
    cfg.train_dataloader.dataset.pipeline.append({"type": "RandomFlip", "prob": prob})
    report = Report()
    check_values(report, cfg, ("train",))
    assert bool(report.errors) == is_wrong


@pytest.mark.parametrize(
    ("rate", "words"), [(0.0, "nothing is learnt"), (10.5, "are usual"), (0.01, "")]
)
def test_rates_with_which_nobody_trains(rate, words):
    report = look(DETECTOR, {"optim_wrapper.optimizer.lr": rate})
    assert report.errors == {}
    assert len(report.warnings) == bool(words)
    assert all(words in kind for kind in report.warnings)


def test_a_loss_of_the_weight_0():
    report = look(SEGMENTOR, {"model.auxiliary_head.loss_decode.loss_weight": 0.0})
    assert report.errors == {}
    (sentence,) = report.sentences("warnings")
    assert sentence.startswith("model.auxiliary_head.loss_decode.loss_weight: ")


@pytest.mark.parametrize("key", ["model", "train_dataloader", "optim_wrapper", "val_cfg"])
@pytest.mark.parametrize("value", ["FCViT", [{}], 3])
def test_what_must_be_a_dict(key, value):
    cfg = load_config(DETECTOR)
    cfg[key] = value
    with pytest.raises(UserError, match=f"{key} must be a dict of settings"):
        prepare_config(cfg)
