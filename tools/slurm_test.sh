#!/usr/bin/env bash
# Test on a slurm cluster, one task per GPU.
#   GPUS=16 bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]
# GPUS_PER_NODE=0 tests on CPUs, with GPUS as the number of tasks.
exec bash "$(dirname "$0")/slurm.sh" test.py "$0" "$@"
