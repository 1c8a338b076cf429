"""Dividing one set of images into two, such that each class is in both."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence

from mmvitconv.datasets.formats.records import Record

__all__ = ["VAL_SHARE", "divide"]

VAL_SHARE = 0.2


def divide(
    records: Sequence[Record],
    classes_of: Callable[[Record], Collection[str]],
    seed: int = 0,
    share: float = VAL_SHARE,
    copies: Mapping[str, str] | None = None,
) -> tuple[list[Record], list[Record]]:
    """Divide images into two parts, the rarest classes first.

    Copies of one photograph, also those that Roboflow has augmented, stay together.

    Args:
        records: At least two images.
        classes_of: The classes in an image.
        seed: Of the order in which images are looked at.
        share: Of the second part, 0 to 1.
        copies: Images that are the same as others, with those.

    Returns:
        Two lists that are not empty, each in the order of ``records``.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        image = (copies or {}).get(record.image, record.image)
        groups[image.partition(".rf.")[0]].append(index)
    if len(groups) < 2:
        groups = {str(index): [index] for index in range(len(records))}
    waiting = sorted(groups.values())
    random.Random(seed).shuffle(waiting)
    kinds = {
        id(group): frozenset(kind for i in group for kind in classes_of(records[i]))
        for group in waiting
    }
    counts = Counter(kind for group in waiting for kind in kinds[id(group)])
    wanted = {kind: max(1, round(share * n)) if n > 1 else 0 for kind, n in counts.items()}
    left = Counter(counts)  # what stays for training, at least one of each
    chosen: set[int] = set()
    for kind in sorted(counts, key=lambda kind: (counts[kind], kind)):
        for group in waiting:
            own = kinds[id(group)]
            if wanted[kind] <= 0 or kind not in own or group[0] in chosen:
                continue
            if all(left[other] > 1 for other in own):
                chosen.update(group)
                left.subtract(own)
                for other in own:
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
