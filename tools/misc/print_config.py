"""Print a config with everything merged: ``python tools/misc/print_config.py CONFIG [options]``."""

import sys

from mmvitconv.cli import run

if __name__ == "__main__":
    sys.exit(run("print-config", *sys.argv[1:], program="print_config.py"))
