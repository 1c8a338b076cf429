"""Print a config with everything merged: ``python tools/misc/print_config.py CONFIG [options]``."""

import sys

from mmvitconv.engine.launch import run_print_config

if __name__ == "__main__":
    sys.exit(run_print_config())
