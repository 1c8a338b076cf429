"""Test a checkpoint of any task: ``python tools/test.py CONFIG CHECKPOINT [options]``."""

import sys

from mmvitconv.engine.launch import run_testing

if __name__ == "__main__":
    sys.exit(run_testing())
