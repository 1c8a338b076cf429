#!/usr/bin/env bash
# Train on several GPUs, or on a machine without GPUs in several CPU processes.
#   bash tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
# Several machines: NNODES, NODE_RANK, MASTER_ADDR and PORT, the same PORT on each.
# MAX_RESTARTS=N starts again up to N times, from the last checkpoint, when a process dies.
# More: docs/distributed.md
exec "${PYTHON:-python}" -m mmvitconv.cli.dist train.py "$0" "$@"
