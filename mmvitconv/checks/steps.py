"""The steps of a pipeline: which one failed, why, and which one stands in the wrong place."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Mapping, Sequence
from types import CodeType
from typing import Any, NamedTuple

from mmcv.transforms import LoadAnnotations

from mmvitconv.errors import message_of

__all__ = [
    "Failure",
    "describe",
    "explain_step",
    "find_early_steps",
    "find_late_steps",
    "locate",
    "name_steps",
]

# what a step looks at that must change annotations with the image
ANNOTATIONS = {"gt_bboxes", "gt_masks", "gt_seg_map", "seg_fields"}
MASKS, BOXES, LABEL_MAP = "gt_masks", "gt_bboxes", "gt_seg_map"


class Failure(NamedTuple):
    """A step that failed on a sample.

    Attributes:
        place: The step's place in the config, and its type.
        reason: What went wrong.
        advice: What to do; '' if unknown.
        leaves_out: The step returned nothing, which leaves the sample out.
        loads: The step is one of those that load, so that the sample may be to blame.
    """

    place: str
    reason: str
    advice: str = ""
    leaves_out: bool = False
    loads: bool = False


def name_steps(steps: Sequence[Any], place: str) -> Iterator[tuple[str, Any]]:
    """Yield the steps of a pipeline with their places, those inside others too.

    Args:
        steps: Transforms, or lists of them.
        place: That of the pipeline in the config.

    Yields:
        Place and step, outer ones first.
    """
    for number, step in enumerate(steps):
        inside = f"{place}.{number}"
        if isinstance(step, (list, tuple)):
            yield from name_steps(step, inside)
            continue
        yield f"{inside} ({type(step).__name__})", step
        nested = getattr(step, "transforms", None)
        nested = getattr(nested, "transforms", nested)  # of mmcv's wrappers
        if isinstance(nested, (list, tuple)):
            yield from name_steps(nested, f"{inside}.transforms")


def locate(error: BaseException, named: Mapping[int, str]) -> str:
    """Return the innermost object whose method raised an error.

    Args:
        error: The error, or one that was raised from it.
        named: Names of objects, by their ``id``.

    Returns:
        The object's name, '' if none of them was at work.
    """
    found = ""
    cause: BaseException | None = error
    while cause is not None:
        for frame, _ in traceback.walk_tb(cause.__traceback__):
            found = named.get(id(frame.f_locals.get("self")), found)
        cause = cause.__cause__
    return found


def describe(error: BaseException) -> str:
    """Return what an error says; of an assertion without words, what it asserts.

    Args:
        error: The error.

    Returns:
        One line.
    """
    text = message_of(error)
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, AssertionError) and not str(error) and frames:
        text += f": {frames[-1].line}"
    return text


def explain_step(error: Exception, steps: Sequence[Any], number: int, place: str) -> Failure:
    """Say which step failed, and what to do.

    Args:
        error: What it raised.
        steps: Those of the pipeline.
        number: Which of them it was, from 0.
        place: That of the pipeline in the config.

    Returns:
        The step and the reason.
    """
    step = steps[number]
    name = f"{place}.{number} ({type(step).__name__})"
    named = {id(item): inside for inside, item in name_steps([step], place)}
    inner = locate(error, named).replace(f"{place}.0", f"{place}.{number}", 1)
    reason = describe(error)[:300]
    packs = [n for n, item in enumerate(steps[:number]) if type(item).__name__.startswith("Pack")]
    key = error.args[0] if isinstance(error, KeyError) and error.args else None
    advice = ""
    if packs:
        kind = type(steps[packs[0]]).__name__
        advice = f"{kind} must be the last step, and it is {place}.{packs[0]}"
    elif key in ("img", "img_shape", "ori_shape"):
        advice = "no step in front of it loads the image: begin with LoadImageFromFile"
    elif isinstance(key, str):
        loader = next(
            (n for n, item in enumerate(steps[number:], number) if _loads_annotations(item)), None
        )
        if key.startswith("gt_") and loader is not None:
            advice = f"put {place}.{loader} (LoadAnnotations) in front of it"
        elif key.startswith("gt_"):
            advice = "put LoadAnnotations with what it needs in front of it"
        else:
            advice = f"neither the step nor one in front of it knows {key!r}"
    return Failure(inner or name, reason, advice)


def find_early_steps(steps: Sequence[Any], place: str) -> Iterator[str]:
    """Find the steps that would have to change annotations which are loaded after them.

    Args:
        steps: Those of a pipeline of training.
        place: That of the pipeline in the config.

    Yields:
        For each such step, a sentence that begins with its place.
    """
    loaders = [number for number, step in enumerate(steps) if _loads_annotations(step)]
    for number, step in enumerate(steps[: loaders[0]] if loaders else ()):
        inside = [item for _, item in name_steps([step], place)]
        if any(ANNOTATIONS & _constants(item) for item in inside):
            yield f"{place}.{number} ({type(step).__name__})"


def find_late_steps(steps: Sequence[Any], place: str) -> Iterator[tuple[str, str]]:
    """Find the steps that look for an image which has been packed already.

    Args:
        steps: Those of a pipeline.
        place: That of the pipeline in the config.

    Yields:
        The place of such a step, and of the one that packs.
    """
    pack = ""
    for number, step in enumerate(steps):
        name = f"{place}.{number} ({type(step).__name__})"
        if pack and "img" in (words := _constants(step)) and not words & {"inputs", "data_samples"}:
            yield name, pack
        if type(step).__name__.startswith("Pack"):
            pack = name


def _loads_annotations(step: Any) -> bool:
    """Tell whether a step loads boxes, masks or label maps."""
    return isinstance(step, LoadAnnotations)


def _constants(step: Any) -> set[str]:
    """Return the words in the code of a transform's own classes."""
    found: set[str] = set()
    for parent in type(step).__mro__:
        for method in vars(parent).values():
            code = getattr(getattr(method, "__wrapped__", method), "__code__", None)
            waiting = [code] if isinstance(code, CodeType) else []
            while waiting:
                current = waiting.pop()
                found |= {value for value in current.co_consts if isinstance(value, str)}
                waiting += [value for value in current.co_consts if isinstance(value, CodeType)]
    return found
