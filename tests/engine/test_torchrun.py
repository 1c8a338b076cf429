"""Processes end with their launcher, and take along what they have started."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

LAUNCHER = """
import os, subprocess, sys, time
from mmvitconv.engine.torchrun import LAUNCHER_VARIABLE

os.environ[LAUNCHER_VARIABLE] = str(os.getpid())
subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(600)
"""
# A worker that is deep in a library's call, where it never looks for its parent.
RANK = """
import multiprocessing, time
from mmvitconv.engine.torchrun import follow_launcher

multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,)).start()
follow_launcher()
print("ready", flush=True)
time.sleep(600)
"""


def test_a_worker_ends_with_the_launcher_of_its_process():
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, RANK],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert launcher.stdout.readline() == "ready\n"
        launcher.kill()
        # ends when nobody can write any more: neither the process nor its worker
        _, told = launcher.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(launcher.pid, signal.SIGKILL)
    assert told.endswith(f"its launcher (pid {launcher.pid}) is gone\n")
