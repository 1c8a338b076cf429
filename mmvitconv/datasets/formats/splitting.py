"""Dividing one set of images into two, such that each class is in both."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence

from mmvitconv.datasets.formats.records import Record

__all__ = ["VAL_SHARE", "divide"]

VAL_SHARE = 0.2


def divide(
    records: Sequence[Record],
    classes_of: Callable[[Record], Collection[str]],
    seed: int = 0,
    share: float = VAL_SHARE,
) -> tuple[list[Record], list[Record]]:
    """Divide images into two parts, the rarest classes first.

    Copies of one photograph that Roboflow has augmented stay together.

    Args:
        records: At least two images.
        classes_of: The classes in an image.
        seed: Of the order in which images are looked at.
        share: Of the second part, 0 to 1.

    Returns:
        Two lists that are not empty, each in the order of ``records``.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        groups[record.image.partition(".rf.")[0] if ".rf." in record.image else record.image].append(
            index
        )
    if len(groups) < 2:
        groups = {str(index): [index] for index in range(len(records))}
    waiting = sorted(groups.values())
    random.Random(seed).shuffle(waiting)
    kinds = {id(group): frozenset(k for i in group for k in classes_of(records[i])) for group in waiting}  # fmt: skip
    counts = Counter(kind for group in waiting for kind in kinds[id(group)])
    wanted = {kind: max(1, round(share * n)) if n > 1 else 0 for kind, n in counts.items()}
    chosen: set[int] = set()
    for kind in sorted(counts, key=lambda kind: (counts[kind], kind)):
        for group in waiting:
            if wanted[kind] > 0 and kind in kinds[id(group)] and group[0] not in chosen:
                chosen.update(group)
                for other in kinds[id(group)]:
                    wanted[other] -= 1
    total = max(1, round(share * len(records)))
    plain = [group for group in waiting if not kinds[id(group)]]  # images without objects
    for group in plain:
        if len(chosen) >= total:
            break
        if sum(len(group) for group in plain) * share > sum(i in chosen for g in plain for i in g):
            chosen.update(group)
    if not chosen:
        chosen.update(waiting[0])
    first = [record for index, record in enumerate(records) if index not in chosen]
    return first, [record for index, record in enumerate(records) if index in chosen]
