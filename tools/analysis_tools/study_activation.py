"""Study 1: train mixers that have other things in the place of softmax, on MNIST digits.

python tools/analysis_tools/study_activation.py [--presets NAME ...] [--seeds SEED ...]
    [--epochs N] [--threads N] [--out DIR]

Writes DIR/results.csv, summary.csv, curves.png and report.md. The defaults take less than ten
minutes on two cores. What is trained, and how, is in tools/studies/mixer_studies.py.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    studies = Path(__file__).resolve().parents[1] / "studies"
    if not studies.is_dir():
        sys.exit("error: this needs a checkout of the repository; wheels leave tools/studies out")
    sys.path.insert(0, str(studies))
    from mixer_studies import ACTIVATION, main

    sys.exit(main(ACTIVATION))
