"""Ctrl-C ends a program with exit code 130 and one line, whatever it was doing.

Python's own way, a ``KeyboardInterrupt`` in the middle of anything, is not enough: libraries turn
it into another error (MMEngine: a syntax error in the config), forget it (in a destructor), or
print a traceback (in a data-loader worker).
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mmvitconv.errors import describe_accident

INTERRUPTED = 130  # what shells return for a program that Ctrl-C has ended
LOOK_SECONDS = 0.5  # how often it is looked whether the program is on its way out
PATIENCE_SECONDS = 10.0  # for that way, after which the program is ended where it is


class Interruption(KeyboardInterrupt):
    """Ctrl-C.

    A class of its own, as Python notes a plain ``KeyboardInterrupt`` that leaves ``exec`` and then
    ends the process by the signal, although it was caught.
    """


def _is_first(handler: object) -> bool:
    """Tell whether the command line's first lines look after Ctrl-C until now."""
    return getattr(handler, "__name__", "") == "leave" and (
        getattr(handler, "__module__", "") in ("mmvitconv.__main__", "__main__")
    )


class CtrlC:
    """Raises :class:`Interruption` at Ctrl-C and remembers it, from ``begin`` to ``finish``.

    The second Ctrl-C, or :data:`PATIENCE_SECONDS`, end the process at once. It does nothing outside
    the main thread and where somebody else handles the signal (or nohup ignores it).

    Args:
        say: Tells the user that the program was interrupted; called once at most.

    Attributes:
        pressed: Whether it was.
    """

    def __init__(self, say: Callable[[], None]) -> None:
        self._say = [say]
        self.pressed = False
        self.code: int | None = None  # of the program, when it is known
        self.process = os.getpid()
        handler = signal.getsignal(signal.SIGINT)
        self.handles = threading.current_thread() is threading.main_thread() and (
            handler is signal.default_int_handler or _is_first(handler)
        )

    def begin(self) -> None:
        """Take over."""
        if self.handles:
            atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)  # runs last
            self.hook, sys.unraisablehook = sys.unraisablehook, self._report_unraisable
            signal.signal(signal.SIGINT, self._interrupt)

    def finish(self, code: int) -> None:
        """Take note of the exit code, from when on nothing is interrupted any more."""
        self.code = code

    def end(self) -> None:
        """Give back what was taken over; while Python itself ends, Ctrl-C is quiet."""
        if self.handles:
            self._alarm(0)
            sys.unraisablehook = self.hook
            atexit.register(signal.signal, signal.SIGINT, self._leave)  # runs first
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def say(self) -> None:
        """Tell the user that the program was interrupted, unless that was said already."""
        if self._say:
            self._say.pop()()

    def _interrupt(self, *_: object) -> None:
        """Handle SIGINT."""
        if os.getpid() != self.process:  # a forked worker, which its parent ends
            return
        if self.pressed or self.code is not None:
            self._leave()
        self.pressed = True
        self.deadline = time.monotonic() + PATIENCE_SECONDS
        self._alarm(LOOK_SECONDS)
        raise Interruption

    def _look_again(self, *_: object) -> None:
        """Handle SIGALRM: raise again what somebody has lost."""
        if time.monotonic() > self.deadline:
            self._leave()
        self._alarm(LOOK_SECONDS)
        handled = sys.exc_info()[1]  # there while somebody clears up on the way out
        while handled is not None and not isinstance(handled, Interruption):
            handled = handled.__context__
        if handled is None and self.code is None:
            raise Interruption

    def _report_unraisable(self, unraisable: Any) -> None:
        """Leave out Python's report of what a destructor lost, if it is told in another way."""
        error = unraisable.exc_value or unraisable.exc_type()
        # PyTorch raises the death of a worker wherever the program is, and then once more
        is_told = isinstance(error, Interruption) or describe_accident(error) is not None
        if not is_told and self.code is None:  # nor what falls apart after an error
            self.hook(unraisable)

    def _alarm(self, seconds: float) -> None:
        """Look again later; 0 to stay away."""
        if hasattr(signal, "setitimer"):  # not on Windows
            if seconds:
                signal.signal(signal.SIGALRM, self._look_again)
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def _leave(self, *_: object) -> None:
        """End the process where it is."""
        with suppress(Exception):  # it may be in the middle of writing
            if self.code is None:
                self.say()
            sys.stdout.flush()
        os._exit(INTERRUPTED if self.code is None else self.code)
