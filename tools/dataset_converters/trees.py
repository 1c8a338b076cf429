"""Write the aerial tree images as COCO boxes.

python tools/dataset_converters/trees.py [--out-dir data/trees] [--wheel FILE]
"""

import sys

from mmvitconv.datasets.first_runs import trees
from mmvitconv.datasets.first_runs.command import run_converter

if __name__ == "__main__":
    sys.exit(run_converter(trees.convert, trees.__doc__ or "", "data/trees"))
