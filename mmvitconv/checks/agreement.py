"""Places of a config that must agree, compared without data, or with what a data set has left.

Everything here reads the config; nothing of the model is built but its backbone and its heads, on
PyTorch's meta device, where that is needed to know their channels.
"""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmvitconv.checks.annotations import Report
from mmvitconv.datasets.layout import as_items, type_name
from mmvitconv.engine.configuration import find_class, walk
from mmvitconv.engine.quiet import quiet_logger
from mmvitconv.errors import shorten

__all__ = ["Facts", "check_agreement", "check_metainfo", "legal_scores"]

# heads of other numbers of classes than the data: proposals, and semantic maps beside instances
OTHER_CLASSES = ("rpn_head", "semantic_head", "backbone", "neck", "teacher", "text_encoder")
CLASS_KEYS = ("classes", "palette")
COCO_SCORES = {
    "bbox": ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"),
    "segm": ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"),
    "proposal": ("AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000"),
}
SEGMENTATION_SCORES = {
    "mIoU": ("mIoU", "mAcc"),
    "mDice": ("mDice", "mAcc"),
    "mFscore": ("mFscore", "mPrecision", "mRecall"),
}
SHORT_RUN = 0.9  # a schedule that reaches less than this share of a run, or this much beyond it


@dataclass
class Facts:
    """What is known of a data set after it was built as training builds it.

    Attributes:
        option: Its place in the config.
        split: 'train', 'val' or 'test'.
        classes: Their names; None where the data set has no names.
        labels: One more than the largest class number in use; 0 if unknown.
        samples: What is left of it.
        ignored: The number in its label maps that counts for nothing; None without such maps.
        reduces_zero: Whether 0 is ignored in them, too, and the others become one less.
    """

    option: str
    split: str
    classes: Sequence[str] | None = None
    labels: int = 0
    samples: int = 0
    ignored: int | None = None
    reduces_zero: bool = False


def check_agreement(report: Report, cfg: Config, facts: Sequence[Facts]) -> None:
    """Compare the places of a config with each other and with its data.

    Args:
        report: Gets the problems.
        cfg: The config.
        facts: What is known of its data sets.
    """
    model = cfg.get("model")
    if isinstance(model, Mapping):
        _compare_classes(report, cfg, facts)
        _check_losses(report, model)
        _compare_channels(report, model)
        _check_single_images(report, cfg, facts)
    _check_save_best(report, cfg)
    _check_evaluators(report, cfg, facts)
    _check_schedules(report, cfg, facts)


def check_metainfo(report: Report, option: str, settings: Mapping[str, Any]) -> None:
    """Check the names of classes and colours that a data set is given.

    Args:
        report: Gets the problems.
        option: The data set's place in the config.
        settings: Its settings.
    """
    given = settings.get("metainfo")
    if not isinstance(given, Mapping):
        return
    where = f"{option}.metainfo"
    for key in given.keys() - set(CLASS_KEYS):
        folded = key.lower().replace("_", "")
        near = get_close_matches(folded, [*CLASS_KEYS, "class", "classnames", "names"], 1, 0.8)
        if near:
            right = "palette" if near[0] == "palette" else "classes"
            report.error(
                f"{key!r} is read by nobody, so that the data set's own names count: write "
                f"metainfo=dict({right}=...)",
                f"{where}.{key}",
            )
    classes, palette = given.get("classes"), given.get("palette")
    if isinstance(classes, str):
        if not os.path.isfile(classes):
            report.error(
                f"{classes!r} is a string, not a list of names: write classes=({classes!r},), with "
                "the comma",
                f"{where}.classes",
            )
        return
    if classes is None:
        return
    if not isinstance(classes, (list, tuple)) or not all(isinstance(c, str) for c in classes):
        kind = f"{str(classes)[:80]} is no list of names: write classes=('a', 'b')"
        report.error(kind, f"{where}.classes")
        return
    twice = sorted({name for name in classes if list(classes).count(name) > 1})
    if twice:
        report.error(
            f"the classes {shorten(twice, 5)} are named twice: name each once", f"{where}.classes"
        )
    if "palette" in given and not isinstance(palette, (list, tuple)):
        report.error(
            f"{palette!r} is no list of colours: leave it out, or give [red, green, blue] for each "
            "class",
            f"{where}.palette",
        )
    elif palette and len(palette) != len(classes):
        report.error(
            f"the palette has {len(palette)} colours and classes {len(classes)} names: give a "
            "colour for each, or write metainfo=dict(_delete_=True, classes=(...)) to drop a "
            "palette of a base",
            f"{where}.palette",
        )


def _compare_classes(report: Report, cfg: Config, facts: Sequence[Facts]) -> None:
    """Compare the numbers of classes in the model with the classes of the data."""
    found = list(_class_counts(cfg))
    for fact in facts:
        wanted = len(fact.classes) if fact.classes else fact.labels
        if not wanted:
            continue
        # class numbers that nobody named may be fewer than the classes
        wrong = [
            (place, count)
            for place, count in found
            if (count != wanted if fact.classes else count < wanted)
        ]
        # ImageNet's thousand names stand for any folders
        if fact.classes and fact.labels and fact.labels < wanted and len(fact.classes) == 1000:
            wrong = [(place, count) for place, count in wrong if count < fact.labels]
        if not wrong:
            continue
        names = f" ({shorten([str(c) for c in fact.classes], 4)})" if fact.classes else ""
        values = ", ".join(f"{place}={count}" for place, count in wrong)
        places = " ".join(f"{place}={wanted}" for place, _ in wrong)
        report.error(
            f"the data have {wanted} class{'es' * (wanted != 1)}{names}, but the model has "
            f"{values}: write {places}, or name the model's classes in metainfo of {fact.option}",
            fact.option,
        )
        return
    names = {fact.split: tuple(fact.classes) for fact in facts if fact.classes}
    train = names.get("train")
    for split, classes in names.items():
        if train is not None and classes != train:
            report.error(
                f"the classes are {shorten(list(map(str, classes)), 5)}, but "
                f"{shorten(list(map(str, train)), 5)} in train_dataloader: give both the same "
                "metainfo=dict(classes=...)",
                f"{split}_dataloader.dataset",
            )


def _class_counts(cfg: Config) -> Iterator[tuple[str, int]]:
    """Yield each place of the model that has a number of classes, defaults included."""
    nodes = [("model", cfg.get("model"))]
    if isinstance(cfg.get("data_preprocessor"), Mapping):
        nodes.append(("data_preprocessor", cfg["data_preprocessor"]))
    for top, node in nodes:
        for place, value in [(top, node), *walk(node, top)]:
            if not isinstance(value, Mapping) or any(
                part in OTHER_CLASSES for part in place.split(".")
            ):
                continue
            count = value.get("num_classes")
            name = place.rpartition(".")[2]
            is_head = "head" in name or (name.isdigit() and "head" in place)
            if count is None and "type" in value and is_head:
                count = _default_of(value["type"], "num_classes", cfg.get("default_scope"))
            if isinstance(count, int) and not isinstance(count, bool) and count > 0:
                yield f"{place}.num_classes", count


def _default_of(kind: Any, argument: str, scope: str | None) -> Any:
    """Return the default of an argument of a class, None if it has none."""
    found = find_class(kind, scope)
    for parent in inspect.getmro(found) if inspect.isclass(found) else ():
        if "__init__" in vars(parent):
            with suppress(TypeError, ValueError):
                parameter = inspect.signature(parent.__init__).parameters.get(argument)
                if parameter is not None:
                    default = parameter.default
                    return None if default is inspect.Parameter.empty else default
    return None


def _check_losses(report: Report, model: Mapping[str, Any]) -> None:
    """Tell losses that are 0 whatever the model predicts."""
    for place, head in walk(model, "model"):
        name = place.rpartition(".")[2]
        if not isinstance(head, Mapping) or "head" not in place or name == "loss":
            continue
        is_map = "decode_head" in place or "auxiliary_head" in place
        key = "loss_decode" if "loss_decode" in head or is_map else "loss"
        if not is_map and not place.endswith("model.head"):
            continue
        channels = head.get("out_channels") or head.get("num_classes")
        for option, loss in as_items(head.get(key), f"{place}.{key}"):
            is_softmax = type_name(loss) in ("CrossEntropyLoss", "LabelSmoothLoss") and not (
                loss.get("use_sigmoid") or loss.get("mode") in ("multi_label",)
            )
            if channels == 1 and is_softmax:
                option_key = (
                    f"{place}.{'out_channels' if head.get('out_channels') else 'num_classes'}"
                )
                report.error(
                    "the softmax of a single class is 1, so that this loss is always 0 and nothing "
                    f"is learnt ({option_key}=1): name the background as a class of its own, or "
                    "write use_sigmoid=True",
                    option,
                )


def _compare_channels(report: Report, model: Mapping[str, Any]) -> None:
    """Compare the channels that modules give with those that the next ones expect."""
    backbone, neck = model.get("backbone"), model.get("neck")
    given = _backbone_channels(backbone)
    necks = [item for _, item in as_items(neck, "model.neck")]
    first = necks[0] if necks else None
    if given and first is not None and "in_channels" in first:
        expected = first["in_channels"]
        many = isinstance(expected, (list, tuple))
        # a single number is that of each map
        expected = list(expected) if many else [expected] * len(given)
        if expected != given:
            option = (
                "model.neck.in_channels"
                if isinstance(neck, Mapping)
                else ("model.neck.0.in_channels")
            )
            _complain_channels(report, option, expected, given)
    keeps = all("out_channels" not in item and "in_channels" not in item for item in necks)
    maps = given if keeps else None
    if given and necks and not keeps and isinstance(necks[-1].get("out_channels"), int):
        last = necks[-1]
        if isinstance(last.get("num_outs"), int):
            maps = [last["out_channels"]] * last["num_outs"]
    for place in ("decode_head", "auxiliary_head", "head"):
        for option, head in as_items(model.get(place), f"model.{place}"):
            _compare_map_head(report, option, head, maps)
    width = necks[-1].get("out_channels") if necks else None
    if isinstance(width, int):
        for option, value, key in _readers_of_pyramid(model):
            if isinstance(value.get(key), int) and value[key] != width:
                report.error(
                    f"{option}.{key} is {value[key]}, but model.neck.out_channels is {width}: "
                    f"write {option}.{key}={width}",
                    f"{option}.{key}",
                )
    outs = necks[-1].get("num_outs") if necks else None
    for option, head in as_items(model.get("rpn_head") or model.get("bbox_head"), "model head"):
        strides = (head.get("anchor_generator") or {}).get("strides") or ()
        if isinstance(outs, int) and strides and len(strides) != outs:
            report.error(
                f"anchor_generator.strides has {len(strides)} levels, but model.neck.num_outs is "
                f"{outs}: give one stride for each",
                option,
            )


def _readers_of_pyramid(model: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    """Yield the modules that read the maps of the neck, and their keys."""
    for option, head in as_items(model.get("rpn_head"), "model.rpn_head"):
        yield option, head, "in_channels"
    if not model.get("roi_head"):
        for option, head in as_items(model.get("bbox_head"), "model.bbox_head"):
            yield option, head, "in_channels"
    roi = model.get("roi_head")
    if isinstance(roi, Mapping) and not roi.get("shared_head"):
        for name, key in (
            ("bbox_roi_extractor", "out_channels"),
            ("mask_roi_extractor", "out_channels"),
            ("bbox_head", "in_channels"),
            ("mask_head", "in_channels"),
        ):
            for option, head in as_items(roi.get(name), f"model.roi_head.{name}"):
                yield option, head, key


def _backbone_channels(backbone: Any) -> list[int] | None:
    """Return the channels of a backbone's maps; None where they are not known."""
    if not isinstance(backbone, Mapping) or "type" not in backbone:
        return None
    settings = {key: value for key, value in backbone.items() if key != "init_cfg"}
    with suppress(Exception), quiet_logger(), torch.device("meta"):
        found = getattr(MODELS.build(settings), "out_channels", None)
        if isinstance(found, (list, tuple)):
            return [int(channels) for channels in found]
    return None  # what cannot be built says so when the run builds it


def _compare_map_head(
    report: Report, option: str, head: Mapping[str, Any], maps: Sequence[int] | None
) -> None:
    """Compare what a head expects with the maps that it gets."""
    expected = head.get("in_channels")
    if maps is None or expected is None:
        return
    index = head.get("in_index", -1)
    many = isinstance(index, (list, tuple))
    wanted = list(index) if many else [index]
    if any(not -len(maps) <= number < len(maps) for number in wanted):
        report.error(
            f"in_index={index} asks for a map that is not there: the backbone gives {len(maps)} "
            "(model.backbone.out_indices)",
            f"{option}.in_index",
        )
        return
    given = [maps[number] for number in wanted]
    if many and head.get("input_transform") == "resize_concat":
        given = given if isinstance(expected, (list, tuple)) else [sum(given)]
    got = list(expected) if isinstance(expected, (list, tuple)) else [expected]
    if got != given:
        _complain_channels(report, f"{option}.in_channels", got, given)


def _complain_channels(report: Report, option: str, got: list, given: list[int]) -> None:
    right = given[0] if len(given) == 1 and len(got) == 1 else given
    report.error(
        f"{got[0] if len(got) == 1 else got} channels are expected, but model.backbone gives "
        f"{right}: write {option}={right}",
        option,
    )


def _check_single_images(report: Report, cfg: Config, facts: Sequence[Facts]) -> None:
    """Tell batches of one image in front of a norm over the batch of a pooled 1x1 map."""
    loader = cfg.get("train_dataloader") or {}
    size = loader.get("batch_size")
    samples = sum(fact.samples for fact in facts if fact.split == "train")
    last = samples % size if isinstance(size, int) and size and samples else 0
    endless = "Infinite" in type_name(loader.get("sampler") or {})
    leaves_rest = last == 1 and not loader.get("drop_last") and not endless
    if not (size == 1 or leaves_rest) or cfg.get("launcher", "none") != "none":
        return
    for place in ("decode_head", "auxiliary_head"):
        for option, head in as_items(cfg.model.get(place), f"model.{place}"):
            with suppress(Exception), quiet_logger(), torch.device("meta"):
                if _normalises_pooled(MODELS.build(dict(head))):
                    what = "is 1" if size == 1 else f"leaves a last batch of 1 of {samples} images"
                    way = "2" if size == 1 else f"{size} and train_dataloader.drop_last=True"
                    report.error(
                        f"train_dataloader.batch_size {what}, but {option} ({type_name(head)}) "
                        "normalises a map that is pooled to one pixel over the batch, which needs "
                        f"two images: write train_dataloader.batch_size={way}, or another norm_cfg",
                        "train_dataloader.batch_size",
                    )
                    return


def _normalises_pooled(module: nn.Module) -> bool:
    """Tell whether a batch norm follows a pooling to one pixel."""
    for part in module.modules():
        if isinstance(part, nn.Sequential) and len(part):
            pool = part[0]
            if isinstance(pool, nn.AdaptiveAvgPool2d) and pool.output_size in (1, (1, 1)):
                return any(isinstance(inner, _BatchNorm) for inner in part.modules())
    return False


def legal_scores(cfg: Mapping[str, Any], evaluator: Any) -> list[str] | None:
    """Return the names of the scores that an evaluator gives.

    Args:
        cfg: The config.
        evaluator: Settings of one metric or of several.

    Returns:
        The names; None where they are not known beforehand.
    """
    found: list[str] = []
    for _, metric in as_items(evaluator, ""):
        kind, given = type_name(metric), metric.get("metric")
        prefix = metric.get("prefix")
        wanted = [given] if isinstance(given, str) else list(given or ())
        if kind == "CocoMetric":
            names = [
                f"{name}_{score}" if name != "proposal" else score
                for name in wanted or ["bbox"]
                for score in metric.get("metric_items") or COCO_SCORES.get(name, ())
            ]
            prefix = prefix or "coco"
            if metric.get("classwise") or "proposal_fast" in wanted:
                return None
        elif kind == "IoUMetric":
            wanted = list(metric.get("iou_metrics") or ["mIoU"])
            names = ["aAcc", *(n for name in wanted for n in SEGMENTATION_SCORES.get(name, ()))]
        elif kind == "Accuracy":
            if metric.get("thrs", 0.0) not in (0.0, None):
                return None
            topk = metric.get("topk", (1,))
            names = [f"top{k}" for k in ([topk] if isinstance(topk, int) else topk)]
            prefix = prefix or "accuracy"
        elif kind == "SingleLabelMetric":
            if metric.get("average", "macro") is None or metric.get("thrs", 0.0) not in (0.0, None):
                return None
            names = list(metric.get("items", ("precision", "recall", "f1-score")))
            if (average := metric.get("average", "macro")) != "macro":
                names = [f"{name}_{average}" for name in names]
            prefix = prefix or "single-label"
        else:
            return None
        found += [f"{prefix}/{name}" if prefix else name for name in names]
    return found or None


def _check_save_best(report: Report, cfg: Config) -> None:
    """Compare the score that chooses the best checkpoint with those of the evaluator."""
    hooks = cfg.get("default_hooks") or {}
    hook = hooks.get("checkpoint") or {}
    wanted = hook.get("save_best")
    if not wanted or wanted == "auto" or not cfg.get("val_evaluator"):
        return
    legal = legal_scores(cfg, cfg.val_evaluator)
    if legal is None:
        return
    for name in [wanted] if isinstance(wanted, str) else wanted:
        if name not in legal:
            near = get_close_matches(name, legal, 1, 0.4)
            report.error(
                f"val_evaluator gives no score {name!r}, which would choose the best checkpoint: "
                f"write {' or '.join(map(repr, near)) or repr(legal[0])}, or another of "
                f"{', '.join(legal)}",
                "default_hooks.checkpoint.save_best",
            )


def _check_evaluators(report: Report, cfg: Config, facts: Sequence[Facts]) -> None:
    """Compare what evaluators ask for with what the model predicts."""
    names = [place for place, _ in walk(cfg.get("model") or {}, "model")]
    has_masks = any("mask" in name or "panoptic" in name for name in names)
    classes = {fact.split: len(fact.classes or ()) or fact.labels for fact in facts}
    for split in ("val", "test"):
        for option, metric in as_items(cfg.get(f"{split}_evaluator"), f"{split}_evaluator"):
            wanted = metric.get("metric")
            if type_name(metric) == "CocoMetric" and not has_masks and "segm" in (wanted or ()):
                report.error(
                    "it asks for 'segm', but the model has no head for masks: write "
                    f"{option}.metric='bbox'",
                    f"{option}.metric",
                )
            topk = metric.get("topk", 1)
            most = max(topk) if isinstance(topk, (list, tuple)) and topk else topk
            count = classes.get(split) or classes.get("train")
            if type_name(metric) == "Accuracy" and count and isinstance(most, int) and most > count:
                report.error(
                    f"it asks for the best {most} classes, but there are {count}: write "
                    f"{option}.topk=(1,)",
                    f"{option}.topk",
                )


def run_length(cfg: Config, facts: Sequence[Facts]) -> tuple[int | None, int | None, str]:
    """Return the epochs and iterations of a run, and the key that sets them.

    Args:
        cfg: The config.
        facts: What is known of its data.

    Returns:
        Epochs and iterations, None where unknown; the key.
    """
    settings = cfg.get("train_cfg") or {}
    epochs, iterations = settings.get("max_epochs"), settings.get("max_iters")
    loader = cfg.get("train_dataloader") or {}
    samples = sum(fact.samples for fact in facts if fact.split == "train")
    size = loader.get("batch_size")
    plain = not {"dataset", "datasets"} & set(loader.get("dataset") or {})
    if epochs and iterations is None and samples and isinstance(size, int) and plain:
        steps = loader.get("num_batch_per_epoch") or math.ceil(samples / size)
        if cfg.get("launcher", "none") == "none":
            iterations = epochs * steps
    key = "train_cfg.max_epochs" if epochs else "train_cfg.max_iters"
    return epochs, iterations, key


def _check_schedules(report: Report, cfg: Config, facts: Sequence[Facts]) -> None:
    """Compare the schedules of the learning rate with the length of the run."""
    if not cfg.get("train_cfg"):
        return
    epochs, iterations, key = run_length(cfg, facts)
    entries = list(as_items(cfg.get("param_scheduler"), "param_scheduler"))
    if isinstance(cfg.get("param_scheduler"), Mapping):
        entries = [("param_scheduler", cfg.param_scheduler)]
    begins = [entry.get("begin", 0) for _, entry in entries]
    total, interval = epochs or iterations, cfg.train_cfg.get("val_interval", 1)
    if total and isinstance(interval, int) and interval > total and cfg.get("val_dataloader"):
        report.warn(
            f"it is larger than {key}={total}, so that nothing is validated and no best checkpoint "
            f"chosen: write train_cfg.val_interval={max(1, total // 10)}",
            f"train_cfg.val_interval={interval}",
        )
    begin = cfg.train_cfg.get("val_begin", 1)
    if total and isinstance(begin, int) and begin > total and cfg.get("val_dataloader"):
        report.warn(
            f"the run ends before it ({key}={total}), so that nothing is validated and no best "
            "checkpoint chosen: write train_cfg.val_begin=1",
            f"train_cfg.val_begin={begin}",
        )
    for number, (option, entry) in enumerate(entries):
        by_epoch = entry.get("by_epoch", True)
        if by_epoch and not epochs and iterations and not entry.get("convert_to_iter_based"):
            report.error(
                f"it counts epochs (by_epoch), but the run iterations ({key}={iterations}), so "
                f"that it never changes the rate: write {option}.by_epoch=False",
                option,
            )
            continue
        length = epochs if by_epoch else iterations
        if not length or "Momentum" in type_name(entry):
            continue
        unit = "epochs" if by_epoch else "iterations"
        kind, begin = type_name(entry), entry.get("begin", 0)
        end = min(entry.get("end") or 10**9, 10**9)
        later = any(start >= end for start in begins[:number] + begins[number + 1 :])
        share = f"{key}={epochs or iterations}"
        if "Cosine" in kind and "Restart" not in kind:
            period = entry.get("T_max") or (end - begin)
            bottom = begin + period
            if bottom < SHORT_RUN * length and end > bottom + 0.02 * period:
                report.error(
                    f"the rate falls until {bottom} {unit} (T_max) and rises again, but the run "
                    f"has {length} ({share}): write {option}.T_max={length - begin}",
                    f"{option}.T_max",
                )
                continue
            end = min(end, bottom)
        falls = "Cosine" in kind or "Poly" in kind or kind == "LinearLR"
        if kind in ("LinearLR", "ConstantLR", "LinearParamScheduler") and (
            entry.get("start_factor", entry.get("factor", 1 / 3)) < entry.get("end_factor", 1.0)
        ):
            if end >= length and end < 10**9:
                report.warn(
                    f"the warm-up has {end} {unit}, but the run only {length} ({share}), so that "
                    f"the full rate is never reached: write {option}.end={max(1, length // 20)}",
                    f"{option}.end",
                )
        elif falls and end < SHORT_RUN * length and not later and _last_rate(kind, entry) == 0:
            report.error(
                f"the rate is exactly 0 from {end} {unit} on, but the run has {length} ({share}): "
                f"write {option}.{'T_max' if 'Cosine' in kind and 'T_max' in entry else 'end'}"
                f"={length}",
                option,
            )
        elif falls and 10**9 > end > length / SHORT_RUN and kind != "LinearLR":
            report.warn(
                f"the schedule ends at {end} {unit}, but the run at {length} ({share}), so that "
                "the rate does not fall as planned: give both the same length",
                option,
            )
        elif "MultiStep" in kind and all(m >= length for m in entry.get("milestones") or [0]):
            report.warn(
                f"no milestone of {entry.get('milestones')} is before the end of the run "
                f"({share}), so that the rate never falls: move them",
                f"{option}.milestones",
            )


def _last_rate(kind: str, entry: Mapping[str, Any]) -> float:
    """Return the least rate of a falling schedule; 1 where it does not fall to 0."""
    if kind == "LinearLR":
        return float(entry.get("end_factor", 1.0))
    return float(entry.get("eta_min") or entry.get("eta_min_ratio") or 0.0)
