"""``python -m mmvitconv COMMAND``: the command line without its console script."""

import sys

from mmvitconv.cli import main

if __name__ == "__main__":
    sys.exit(main())
