#!/usr/bin/env bash
# Train on a slurm cluster, one task per GPU.
#   GPUS=16 bash tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of tools/train.py]
# GPUS_PER_NODE=0 trains on CPUs, with GPUS as the number of tasks.
exec bash "$(dirname "$0")/slurm.sh" train.py "$0" "$@"
