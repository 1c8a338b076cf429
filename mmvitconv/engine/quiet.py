"""Silence MMEngine where its messages would bury the result."""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from mmengine.logging import MMLogger

__all__ = ["QuietStart", "log_traceback", "quiet_logger"]


def log_traceback(error: BaseException) -> None:
    """Write the traceback of an error into the log files, and nowhere else.

    Args:
        error: What became a sentence for the user.
    """
    logger = MMLogger.get_current_instance()
    text = "".join(traceback.format_exception(error))
    record = logger.makeRecord(logger.name, logging.INFO, "", 0, text, (), None)
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


@contextmanager
def quiet_logger(level: int = logging.ERROR) -> Iterator[None]:
    """Let MMEngine's current logger pass errors only.

    Args:
        level: The least that it passes, of those of ``logging``.

    Yields:
        Nothing.
    """
    logger = MMLogger.get_current_instance()
    before = logger.level
    logger.setLevel(level)
    try:
        yield
    finally:
        logger.setLevel(before)


class QuietStart:
    """Sends what is logged while a run starts to its log file, and warnings to the user at the end.

    Args:
        say: Prints a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.kept: dict[str, None] = {}
        self.original: Any = None

    def begin(self) -> None:
        """Keep the console quiet from now on."""
        if self.original is not None:
            return
        self.original = MMLogger.callHandlers, warnings.showwarning
        MMLogger.callHandlers = self._handlers_caller()
        warnings.showwarning = self._note_warning

    def end(self) -> None:
        """Let the console speak again, first of the warnings."""
        if self.original is None:
            return
        MMLogger.callHandlers = self.original[0]
        for text in self.kept:
            self.say(f"warning: {text}")
        self.kept.clear()

    def close(self) -> None:
        """Undo all; until then warnings of libraries about code go to the log file."""
        self.end()
        if self.original is not None:
            warnings.showwarning = self.original[1]
            self.original = None

    def warn(self, text: str) -> None:
        """Keep a warning for the end.

        Args:
            text: One line.
        """
        self.kept[text] = None

    def _handlers_caller(self) -> Callable[[MMLogger, logging.LogRecord], None]:
        """Return what takes the place of MMEngine's way from a logger to its handlers."""

        def call(logger: MMLogger, record: logging.LogRecord) -> None:
            for handler in logger.handlers:
                is_file = isinstance(handler, logging.FileHandler)
                if record.levelno >= handler.level and (
                    is_file or record.levelno > logging.WARNING
                ):
                    handler.handle(record)
            text = record.getMessage()
            # what becomes of a library's own names is no news for its user's user
            if record.levelno == logging.WARNING and "deprecated" not in text:
                self.warn(text)

        return call

    def _note_warning(self, message: Warning | str, category: type[Warning], *args: Any) -> None:
        """Write a warning of a library into the log file; it is about code, not about the run."""
        MMLogger.get_current_instance().info(f"{category.__name__}: {message}")
