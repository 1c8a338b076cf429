"""Train a classifier, detector or segmentor: ``python tools/train.py CONFIG [options]``."""

import sys

from mmvitconv.engine.launch import run_training

if __name__ == "__main__":
    sys.exit(run_training())
