"""Label numbers that count for nothing, where a config says so in several places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config

from mmvitconv.checks.agreement import Facts
from mmvitconv.checks.annotations import Report
from mmvitconv.datasets.layout import as_items, leaf_datasets, type_name
from mmvitconv.engine.configuration import walk

__all__ = ["check_ignored"]

IGNORED = 255  # the default of all of mmseg's parts
HEADS = ("decode_head", "auxiliary_head")


def check_ignored(report: Report, cfg: Config, facts: Sequence[Facts]) -> None:
    """Compare the places that say which numbers of a label map count for nothing.

    Args:
        report: Gets the problems.
        cfg: The config.
        facts: What is known of its data sets.
    """
    facts = [fact for fact in facts if fact.ignored is not None]
    if not facts:
        return
    places = dict(_ignored(cfg, facts))
    names = next((list(fact.classes) for fact in facts if fact.classes), [])
    classes = {place: number for place, number in places.items() if 0 <= number < len(names)}
    numbers = sorted(set(places.values()), key=list(places.values()).count)
    if classes:
        number = next(iter(classes.values()))
        # somebody who writes it everywhere means it
        (report.error if len(numbers) > 1 else report.warn)(
            f"{number} is ignored, but it is the number of the class {names[number]!r}, of which "
            f"nothing is learnt or scored: write ignore_index={IGNORED}; where 0 is no class, "
            "write reduce_zero_label=True and take it out of classes",
            *classes,
        )
    elif len(numbers) > 1:
        usual = numbers[-1]
        odd = [place for place, number in places.items() if number != usual]
        first = next(place for place, number in places.items() if number == usual)
        report.error(
            f"{places[odd[0]]} is ignored here, but {usual} in {first}: what one ignores is an "
            f"unknown class for the other; write ignore_index={usual}",
            *odd,
        )
    for place in ("model.data_preprocessor", "data_preprocessor"):
        pad = _at(cfg, place).get("seg_pad_val")
        if isinstance(pad, int) and pad not in places.values():
            what = f"the class {names[pad]!r}" if 0 <= pad < len(names) else "an unknown class"
            (report.warn if 0 <= pad < len(names) else report.error)(
                f"what is put around smaller images is labelled {pad}, {what}, instead of a "
                f"number that is ignored: write seg_pad_val={numbers[-1]}",
                f"{place}.seg_pad_val",
            )
    _compare_zero(report, cfg, facts)


def _at(cfg: Config, place: str) -> Mapping[str, Any]:
    """Return the settings at a place of a config, none where there are none."""
    node: Any = cfg
    for part in place.split("."):
        node = node.get(part) if isinstance(node, (Mapping, Config)) else None
    return node if isinstance(node, Mapping) else {}


def _ignored(cfg: Config, facts: Sequence[Facts]) -> Iterator[tuple[str, int]]:
    """Yield each place that says which number is ignored, defaults included, and the number."""
    for fact in facts:
        yield f"{fact.option}.ignore_index", fact.ignored
    model = cfg.get("model") or {}
    parts = [item for name in HEADS for item in as_items(model.get(name), f"model.{name}")]
    for split in {fact.split: None for fact in facts}:
        for option, metric in as_items(cfg.get(f"{split}_evaluator"), f"{split}_evaluator"):
            parts += [(option, metric)] * (type_name(metric) == "IoUMetric")
    for option, part in parts:
        number = part.get("ignore_index", IGNORED)
        if isinstance(number, int):  # None: of a loss with a mask
            yield f"{option}.ignore_index", number


def _compare_zero(report: Report, cfg: Config, facts: Sequence[Facts]) -> None:
    """Compare whether the number 0 is ignored, in the data sets and their pipelines."""
    found = {f"{fact.option}.reduce_zero_label": fact.reduces_zero for fact in facts}
    for split in {fact.split: None for fact in facts}:
        for option, item in leaf_datasets(cfg[f"{split}_dataloader"], f"{split}_dataloader"):
            for place, step in walk(item.get("pipeline"), f"{option}.pipeline"):
                if isinstance(step, Mapping) and type_name(step) == "LoadAnnotations":
                    own = step.get("reduce_zero_label")
                    found |= {} if own is None else {f"{place}.reduce_zero_label": bool(own)}
    yes = [place for place, is_on in found.items() if is_on]
    no = [place for place, is_on in found.items() if not is_on]
    if yes and no:
        report.error(
            f"it is True here, but False in {no[0]}: the same number would be one class here and "
            "another there; write it for each data set, and the same for all (LoadAnnotations "
            "takes its data set's)",
            *yes,
        )
