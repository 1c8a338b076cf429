"""Study 2: train mixers with depth-wise kernels in the place of attention, on MNIST digits.

python tools/analysis_tools/study_depthwise.py [--presets NAME[:SIZE] ...] [--seeds SEED ...]
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
    from mixer_studies import DEPTHWISE, main

    sys.exit(main(DEPTHWISE))
