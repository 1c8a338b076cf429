"""A worker that cannot send a batch."""

import errno
from multiprocessing.queues import Queue

import pytest
from torch.utils.data import DataLoader

from mmvitconv.engine.workers import send_errors_of_workers
from mmvitconv.errors import describe_accident


class Unsendable:
    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self):
        if self.number == 3:
            raise OSError(errno.ENOSPC, "No space left on device", "/dev/shm")
        return Unsendable, (self.number,)


def test_its_error_takes_the_place_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Queue, "_on_queue_feeder_error", Queue._on_queue_feeder_error)
    send_errors_of_workers()
    loader = DataLoader(
        [Unsendable(number) for number in range(6)],
        num_workers=1,
        batch_size=None,
        multiprocessing_context="fork",
    )
    arrived = []
    with pytest.raises(OSError, match="No space left") as caught:
        arrived.extend(item.number for item in loader)
    accident = describe_accident(caught.value)
    assert accident == "[Errno 28] No space left on device: '/dev/shm': make room there"
