"""Make a tiny data set, as ``mmvitconv data nuclei`` does.

python tools/dataset_converters/nuclei.py [--out-dir data/nuclei] [--wheel FILE]
"""

import sys

from mmvitconv.cli import run

if __name__ == "__main__":
    sys.exit(run("data", "nuclei", *sys.argv[1:], program="nuclei.py"))
