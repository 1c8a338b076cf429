"""Test a checkpoint of any task: ``python tools/test.py CONFIG CHECKPOINT [options]``."""

import sys

from mmvitconv.cli import run

if __name__ == "__main__":
    sys.exit(run("test", *sys.argv[1:], program="test.py"))
