"""Silence MMEngine where its messages would bury the result."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.logging import MMLogger


@contextmanager
def quiet_logger() -> Iterator[None]:
    """Let MMEngine's current logger pass errors only.

    Yields:
        Nothing.
    """
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
