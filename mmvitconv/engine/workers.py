"""Data-loader workers that cannot send what they have loaded."""

from __future__ import annotations

from multiprocessing.queues import Queue
from typing import Any

from torch._utils import ExceptionWrapper
from torch.utils.data import get_worker_info


def send_errors_of_workers() -> None:
    """Let a run end, instead of waiting for ever, when a worker cannot send a batch.

    A batch is sent by a thread of the worker, through shared memory. When that fails (``/dev/shm``
    is full, too many files are open), Python prints a traceback there and forgets the batch. Here
    the error is sent in its place, and the loader raises it. Workers get this by being forked.
    """
    Queue._on_queue_feeder_error = _send_error


def _send_error(queue: Queue, error: Exception, item: Any) -> None:
    """Put the error into the place of a batch; ``multiprocessing`` calls it in the thread."""
    worker = get_worker_info()
    is_batch = worker is not None and isinstance(item, tuple) and len(item) == 2
    if not is_batch or isinstance(item[1], ExceptionWrapper):
        raise error
    where = f"in DataLoader worker process {worker.id}"
    trace = (type(error), error, error.__traceback__)
    queue.put((item[0], ExceptionWrapper(trace, where=where)))
