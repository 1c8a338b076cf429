"""Parameters and multiply-adds of a config: ``mmvitconv flops``, as a script."""

import sys

from mmvitconv.cli import run

if __name__ == "__main__":
    sys.exit(run("flops", *sys.argv[1:]))
