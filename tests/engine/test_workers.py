"""A worker that cannot send a batch."""

import errno
from multiprocessing.queues import Queue
from types import SimpleNamespace

import pytest
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from mmvitconv.engine import workers
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


@pytest.mark.parametrize(
    ("worker", "item"),
    [
        (None, (3, "batch")),  # somebody else's queue
        (SimpleNamespace(id=0), "no batch"),
        # the error itself cannot be sent either: not once more, for ever
        (SimpleNamespace(id=0), (3, ExceptionWrapper((OSError, OSError("full"), None)))),
    ],
)
def test_other_errors_are_not_sent(
    monkeypatch: pytest.MonkeyPatch, worker: SimpleNamespace | None, item: object
) -> None:
    monkeypatch.setattr(workers, "get_worker_info", lambda: worker)
    sent = []
    with pytest.raises(OSError, match="full"):
        workers._send_error(SimpleNamespace(put=sent.append), OSError("full"), item)
    assert sent == []
