"""Values of a config that cannot be right whatever the data are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config

from mmvitconv.checks.annotations import Report
from mmvitconv.datasets.layout import type_name
from mmvitconv.engine.configuration import walk

__all__ = ["check_values"]

SPLITS = ("train", "val", "test")
# place, least value, whether it is a whole number
NUMBERS = {
    "train_cfg.max_epochs": (1, True),
    "train_cfg.max_iters": (1, True),
    "train_cfg.val_interval": (1, True),
    "optim_wrapper.accumulative_counts": (1, True),
    "optim_wrapper.clip_grad.max_norm": (0, False),
    "optim_wrapper.optimizer.lr": (0, False),
    "optim_wrapper.optimizer.weight_decay": (0, False),
    **{f"{split}_dataloader.batch_size": (1, True) for split in SPLITS},
    **{f"{split}_dataloader.num_workers": (0, True) for split in SPLITS},
}
ADAPTIVE = ("Adam", "AdamW", "NAdam", "RAdam", "Adamax")
MOST_ADAPTIVE, MOST_RATE = 0.1, 10.0  # rates, from which on nobody trains


def check_values(report: Report, cfg: Config, splits: Sequence[str]) -> None:
    """Name values that cannot be right.

    Args:
        report: Gets the problems.
        cfg: The config.
        splits: Those of 'train', 'val' and 'test' that are used.
    """
    unused = {"train", "val", "test"} - set(splits)
    for place, (least, is_whole) in NUMBERS.items():
        top = place.partition("_")[0]
        if top in unused or ("train" in unused and top == "optim"):
            continue
        value: Any = cfg
        for part in place.split("."):
            value = value.get(part) if isinstance(value, Mapping | Config) else None
        if value is not None and not _is_number(value, least, is_whole):
            what = "a whole number" if is_whole else "a number"
            report.error(f"it must be {what} of at least {least}, got {value!r}", place)
    for split in splits:
        loader = cfg.get(f"{split}_dataloader") or {}
        runs = cfg.get(f"{split}_cfg") is not None  # not only data, to be looked at
        if runs and loader.get("dataset") and not loader.get("sampler"):
            shuffle = split == "train"
            report.error(
                f"it has no sampler: write sampler=dict(type='DefaultSampler', shuffle={shuffle})",
                f"{split}_dataloader",
            )
        if loader.get("persistent_workers") and loader.get("num_workers", 0) == 0:
            report.error(
                "there are no workers to keep (num_workers=0): write persistent_workers=False",
                f"{split}_dataloader.persistent_workers",
            )
        for place, step in walk(loader.get("dataset"), f"{split}_dataloader.dataset"):
            if place.endswith(".prob") and not _is_share(step):
                report.error(f"a probability is between 0 and 1, got {step!r}", place)
    if "train" in splits:
        _check_rate(report, cfg)
        _check_weights_files(report, cfg)
    model = cfg.get("model") or {}
    for place, node in walk(model, "model"):
        key = place.rpartition(".")[2]
        if key == "score_thr" and isinstance(node, (int, float)) and not 0 <= node < 1:
            report.error(f"a score is between 0 and 1, got {node!r}: nothing would be found", place)
        if key == "max_per_img" and isinstance(node, int) and node < 1 and node != -1:
            report.error(f"it must be a whole number of at least 1, or -1 for all: {node!r}", place)
        if isinstance(node, Mapping):
            _check_loss(report, place, node)
            _check_weights(report, place, node)
    _check_colours(report, cfg, model)


def _check_weights_files(report: Report, cfg: Config) -> None:
    """Name files of weights that are not there."""
    named = {"load_from": cfg.get("load_from")}
    for place, node in walk(cfg.get("model") or {}, "model"):
        if place.endswith("init_cfg") and isinstance(node, Mapping):
            named[f"{place}.checkpoint"] = node.get("checkpoint")
    for place, file in named.items():
        is_local = isinstance(file, str) and file and "://" not in file
        if is_local and not os.path.exists(os.path.expanduser(file)):
            kind = f"there is no file {file!r}: give the path of one, or leave it out"
            report.error(kind, place)


def _check_rate(report: Report, cfg: Config) -> None:
    """Name rates with which no training goes on."""
    optimizer = (cfg.get("optim_wrapper") or {}).get("optimizer") or {}
    rate = optimizer.get("lr")
    if not isinstance(rate, (int, float)):
        return
    kind = type_name(optimizer)
    most = MOST_ADAPTIVE if kind in ADAPTIVE else MOST_RATE
    place = "optim_wrapper.optimizer.lr"
    if rate == 0:
        report.warn("with the rate 0 nothing is learnt: write 1e-4, for example", place)
    elif rate > most:
        usual = "1e-4 to 1e-3" if kind in ADAPTIVE else "0.01 to 0.1"
        report.warn(
            f"{kind} with the rate {rate:g} usually ends in numbers that are not finite: {usual} "
            "are usual",
            place,
        )


def _is_number(value: Any, least: float, is_whole: bool) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    return value >= least and (not is_whole or value == int(value))


def _is_share(value: Any) -> bool:
    """Tell whether a value may be a probability, or probabilities of alternatives."""
    values = value if isinstance(value, (list, tuple)) else [value]
    numbers = [v for v in values if isinstance(v, (int, float))]
    return all(0 <= number <= 1 for number in numbers) and sum(numbers) <= 1 + 1e-6


def _check_loss(report: Report, place: str, node: Mapping[str, Any]) -> None:
    """Name a loss that counts nothing."""
    weight = node.get("loss_weight")
    if isinstance(weight, (int, float)) and weight == 0 and "Loss" in type_name(node):
        report.warn("with the weight 0 this loss teaches nothing", f"{place}.loss_weight")


def _check_weights(report: Report, place: str, head: Mapping[str, Any]) -> None:
    """Compare the number of a loss's class weights with the classes of its head."""
    count = head.get("num_classes")
    for key in ("loss", "loss_decode", "loss_cls"):
        for option, loss in _losses(head.get(key), f"{place}.{key}"):
            weights = loss.get("class_weight")
            # a softmax of objects has the background as its last class
            is_of_objects = key == "loss_cls" or "cls" in str(loss.get("loss_name"))
            legal = (count, count + 1) if is_of_objects and count else (count,)
            if count and isinstance(weights, (list, tuple)) and len(weights) not in legal:
                report.error(
                    f"class_weight has {len(weights)} numbers, but {place}.num_classes is {count}: "
                    "give one for each class",
                    f"{option}.class_weight",
                )


def _losses(node: Any, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        yield place, node
    for number, item in enumerate(node if isinstance(node, (list, tuple)) else ()):
        if isinstance(item, Mapping):
            yield f"{place}.{number}", item


def _check_colours(report: Report, cfg: Config, model: Mapping[str, Any]) -> None:
    """Compare the colour statistics with each other and with the channels of the backbone."""
    backbone = model.get("backbone")
    channels = backbone.get("in_channels") if isinstance(backbone, Mapping) else None
    for place, node in (
        ("model.data_preprocessor", model.get("data_preprocessor")),
        ("data_preprocessor", cfg.get("data_preprocessor")),
    ):
        given = node if isinstance(node, Mapping) else {}
        mean, std = given.get("mean"), given.get("std")
        if not isinstance(mean, (list, tuple)) or not isinstance(std, (list, tuple)):
            continue
        if len(mean) != len(std):
            report.error(
                f"mean has {len(mean)} numbers and std {len(std)}: give one of each per channel",
                f"{place}.mean",
            )
        elif len(mean) not in (1, channels or 3):
            where = f"model.backbone.in_channels is {channels}" if channels else "images have 3"
            report.error(
                f"mean and std have {len(mean)} numbers, but {where}: give one per channel",
                f"{place}.mean",
            )
