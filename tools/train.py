"""Train a classifier, detector or segmentor: ``python tools/train.py CONFIG [options]``."""

import sys

from mmvitconv.cli import run

if __name__ == "__main__":
    sys.exit(run("train", *sys.argv[1:], program="train.py"))
