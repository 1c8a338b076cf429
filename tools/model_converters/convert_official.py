"""An original checkpoint in our layout: ``mmvitconv convert``, as a script."""

import sys

from mmvitconv.cli import run

if __name__ == "__main__":
    sys.exit(run("convert", *sys.argv[1:]))
