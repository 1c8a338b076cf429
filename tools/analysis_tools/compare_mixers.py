"""The token mixers of all families side by side: what they are, and what they cost.

python tools/analysis_tools/compare_mixers.py [--sizes SIDE ...] [--channels C] [--heads H]
    [--batch N] [--device cpu|cuda] [--mixers NAME ...] [--out DIR]

Prints tables, and writes DIR/mixers.md, mixers.csv and mixers.png. Times are medians of mixers that
take turns in one process. The rows are in tools/studies/mixer_table.py and mixers.csv.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    studies = Path(__file__).resolve().parents[1] / "studies"
    if not studies.is_dir():
        sys.exit("error: this needs a checkout of the repository; wheels leave tools/studies out")
    sys.path.insert(0, str(studies))
    from mixer_table import main

    sys.exit(main())
