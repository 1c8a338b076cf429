"""Study 2: train mixers with depth-wise kernels in the place of attention, on MNIST digits.

python tools/analysis_tools/study_depthwise.py [--presets NAME[:SIZE] ...] [--seeds SEED ...]
    [--epochs N] [--threads N] [--out DIR]

Writes DIR/results.csv, summary.csv, curves.png and report.md. The defaults take less than ten
minutes on two cores. What is trained, and how, is in mmvitconv/analysis/studies.py.
"""

import sys

from mmvitconv.analysis.studies import DEPTHWISE, main

if __name__ == "__main__":
    sys.exit(main(DEPTHWISE))
