"""Make a tiny data set, as ``mmvitconv data trees`` does.

python tools/dataset_converters/trees.py [--out-dir data/trees] [--wheel FILE]
"""

import sys

from mmvitconv.cli import run

if __name__ == "__main__":
    sys.exit(run("data", "trees", *sys.argv[1:], program="trees.py"))
