"""Write the nuclei image as COCO instance masks and ADE20K-style png.

python tools/dataset_converters/nuclei.py [--out-dir data/nuclei] [--wheel FILE]
"""

import sys

from mmvitconv.datasets.first_runs import nuclei
from mmvitconv.datasets.first_runs.command import run_converter

if __name__ == "__main__":
    sys.exit(run_converter(nuclei.convert, nuclei.__doc__ or "", "data/nuclei"))
