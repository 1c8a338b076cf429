"""Places of a config that must agree, compared without an epoch."""

import pytest
from mmengine.registry import DefaultScope

from mmvitconv.checks.agreement import Facts, check_agreement, check_metainfo, legal_scores
from mmvitconv.checks.annotations import Report
from mmvitconv.engine.configuration import load_config

DETECTOR = "maskrcnn_fcvit_tiny_nuclei"
SEGMENTOR = "upernet_fcvit_tiny_nuclei"
CLASSIFIER = "fcvit_tiny_mnist"
CLASSES = {
    DETECTOR: ["nucleus"],
    SEGMENTOR: ["background", "nucleus"],
    CLASSIFIER: list("0123456789"),
    "retinanet_fcvit_tiny_trees": ["tree"],
}


def agree(name, options, classes=None, samples=33):
    cfg = load_config(name)
    cfg.merge_from_dict(options)
    report = Report()
    facts = [Facts("train_dataloader.dataset", "train", classes or CLASSES[name], samples=samples)]
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        check_agreement(report, cfg, facts)
    return report


@pytest.mark.parametrize("name", CLASSES)
def test_shipped_configs_agree(name):
    samples = {CLASSIFIER: 5000}.get(name, 33)
    report = agree(name, {}, samples=samples)
    assert report.errors == {}
    assert report.warnings == {}


HEADS = "model.roi_head"
SLIPS = [
    (DETECTOR, {f"{HEADS}.bbox_head.num_classes": 4}, "bbox_head.num_classes=4: write"),
    (
        DETECTOR,
        {f"{HEADS}.mask_head.num_classes": 3},
        "roi_head.mask_head.num_classes=1",
    ),
    (CLASSIFIER, {"model.head.num_classes": 3}, "write model.head.num_classes=10"),
    (CLASSIFIER, {"model.head.loss.num_classes": 7}, "model.head.loss.num_classes=7"),
    (SEGMENTOR, {"model.auxiliary_head.num_classes": 5}, "model.auxiliary_head.num_classes=5"),
    (DETECTOR, {"model.backbone.arch": "s12"}, "write model.neck.in_channels=[64, 128, 320, 512]"),
    (CLASSIFIER, {"model.backbone.arch": "s12"}, "write model.head.in_channels=512"),
    (SEGMENTOR, {"model.backbone.arch": "s12"}, "write model.auxiliary_head.in_channels=320"),
    (SEGMENTOR, {"model.auxiliary_head.in_index": 6}, "asks for a map that is not there"),
    (DETECTOR, {"model.neck.out_channels": 64}, "write model.rpn_head.in_channels=64"),
    (DETECTOR, {"model.neck.num_outs": 4}, "model.neck.num_outs is 4"),
    (SEGMENTOR, {"train_dataloader.batch_size": 1}, "train_dataloader.batch_size=2"),
    (DETECTOR, {"default_hooks.checkpoint.save_best": "acc"}, "gives no score 'acc'"),
    (CLASSIFIER, {"default_hooks.checkpoint.save_best": "top1"}, "write 'accuracy/top1'"),
    (SEGMENTOR, {"default_hooks.checkpoint.save_best": "IoU"}, "write 'mIoU'"),
    (SEGMENTOR, {"param_scheduler.0.by_epoch": True}, "write param_scheduler.0.by_epoch=False"),
    (CLASSIFIER, {"val_evaluator.topk": (1, 20)}, "there are 10: write val_evaluator.topk"),
    ("retinanet_fcvit_tiny_trees", {"val_evaluator.metric": ["segm"]}, "no head for masks"),
]


@pytest.mark.parametrize(("name", "options", "words"), SLIPS, ids=lambda value: str(value)[:50])
def test_each_slip_is_one_sentence(name, options, words):
    report = agree(name, options)
    assert any(words in sentence for sentence in report.sentences()), report.errors


def schedule(kind, **settings):
    return {
        "param_scheduler": [{"type": kind, "by_epoch": True, **settings}],
        "train_cfg.max_epochs": 60,
    }


@pytest.mark.parametrize(
    ("options", "errors", "warnings"),
    [
        (schedule("CosineAnnealingLR", T_max=20), "rises again", ""),
        (schedule("CosineAnnealingLR", T_max=20, end=20), "exactly 0 from 20 epochs", ""),
        (schedule("CosineAnnealingLR", T_max=20, end=20, eta_min=1e-6), "", ""),
        (schedule("CosineAnnealingLR", T_max=60), "", ""),
        (schedule("CosineAnnealingLR", T_max=55, begin=5, end=60), "", ""),
        (schedule("PolyLR", end=30), "exactly 0 from 30 epochs", ""),
        (schedule("PolyLR", end=600), "", "the schedule ends at 600"),
        (schedule("LinearLR", start_factor=0.1, end=100), "", "the warm-up has 100"),
        (schedule("LinearLR", start_factor=0.1, end=5), "", ""),
        (schedule("MultiStepLR", milestones=[80, 110]), "", "no milestone"),
        (schedule("MultiStepLR", milestones=[40, 55]), "", ""),
        (schedule("mmvitconv.MultiStepLR", shares=[2 / 3, 11 / 12]), "", ""),
    ],
)
def test_schedules_against_the_length(options, errors, warnings):
    report = agree(DETECTOR, options)
    for words, found in ((errors, report.sentences()), (warnings, report.sentences("warnings"))):
        assert [words in sentence for sentence in found] == ([True] if words else [])


def test_a_single_class_in_a_softmax():
    options = {"model.decode_head.num_classes": 1, "model.auxiliary_head.num_classes": 1}
    sentences = agree(SEGMENTOR, options, ["a"]).sentences()
    assert sum("the softmax of a single class is 1" in text for text in sentences) == 2
    options |= {
        "model.decode_head.loss_decode.use_sigmoid": True,
        "model.auxiliary_head.loss_decode.use_sigmoid": True,
    }
    assert agree(SEGMENTOR, options, ["a"]).errors == {}


@pytest.mark.parametrize(
    ("metainfo", "words"),
    [
        ({"classes": ("a", "b"), "palette": [(0, 0, 0), (1, 1, 1)], "owner": "me"}, ""),
        ({"classes": ["a"]}, ""),
        ({"CLASSES": ("a",)}, "write metainfo=dict(classes=...)"),
        ({"Classes": ("a",)}, "write metainfo=dict(classes=...)"),
        ({"class_names": ("a",)}, "write metainfo=dict(classes=...)"),
        ({"PALETTE": []}, "write metainfo=dict(palette=...)"),
        ({"classes": "cell"}, "write classes=('cell',)"),
        ({"classes": ("a", "a")}, "named twice"),
        ({"classes": {"a": 0}}, "no list of names"),
        ({"classes": ("a", "b"), "palette": [(0, 0, 0)]}, "1 colours and classes 2 names"),
    ],
)
def test_names_of_classes(metainfo, words):
    report = Report()
    check_metainfo(report, "train_dataloader.dataset", {"metainfo": metainfo})
    found = report.sentences()
    assert [words in sentence for sentence in found] == ([True] if words else [])


@pytest.mark.parametrize(
    ("evaluator", "name"),
    [
        ({"type": "CocoMetric", "metric": ["bbox", "segm"]}, "coco/segm_mAP_50"),
        ({"type": "IoUMetric", "iou_metrics": ["mIoU", "mDice"]}, "mDice"),
        ({"type": "Accuracy", "topk": (1, 5)}, "accuracy/top5"),
        ([{"type": "SingleLabelMetric"}, {"type": "Accuracy"}], "single-label/f1-score"),
    ],
)
def test_names_of_scores(evaluator, name):
    assert name in legal_scores({}, evaluator)
    assert legal_scores({}, {"type": "SomebodysMetric"}) is None
