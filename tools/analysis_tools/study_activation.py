"""Study 1: train mixers that have other things in the place of softmax, on MNIST digits.

python tools/analysis_tools/study_activation.py [--presets NAME ...] [--seeds SEED ...]
    [--epochs N] [--threads N] [--out DIR]

Writes DIR/results.csv, summary.csv, curves.png and report.md. The defaults take less than ten
minutes on two cores. What is trained, and how, is in mmvitconv/analysis/studies.py.
"""

import sys

from mmvitconv.analysis.studies import ACTIVATION, main

if __name__ == "__main__":
    sys.exit(main(ACTIVATION))
