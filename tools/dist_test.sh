#!/usr/bin/env bash
# Test on several GPUs, or on a machine without GPUs in several CPU processes.
#   bash tools/dist_test.sh CONFIG CHECKPOINT GPUS [arguments of tools/test.py]
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT, the same PORT on each.
# More: docs/distributed.md
exec "${PYTHON:-python}" -m mmvitconv.cli.dist test.py "$0" "$@"
