#!/usr/bin/env bash
# Test on a slurm cluster, one task per GPU.
#   GPUS=16 bash tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]
# GPUS_PER_NODE=0 tests on CPUs, with GPUS as the number of tasks.
set -euo pipefail

usage() {
    echo "usage: [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS= PYTHON=python]" \
        "bash $0 PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of tools/test.py]" >&2
    [ "$#" -eq 0 ] || echo "slurm_test.sh: error: $*" >&2
    exit 2
}

[ "$#" -ge 4 ] || usage
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
CHECKPOINT=$4
GPUS=${GPUS:-8}
[[ "$GPUS" =~ ^[1-9][0-9]*$ ]] || usage "GPUS must be a whole number of at least 1, got '$GPUS'"
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
[[ "$GPUS_PER_NODE" =~ ^[0-9]+$ ]] || usage "GPUS_PER_NODE must be a whole number, got '$GPUS_PER_NODE'"
CPUS_PER_TASK=${CPUS_PER_TASK:-5}
PYTHON=${PYTHON:-python}
# a port of its own for each job, so that two jobs can share a machine; all tasks inherit it
export MASTER_PORT=${MASTER_PORT:-$((20000 + RANDOM % 12000))}

NODE_ARGS=()
if [ "$GPUS_PER_NODE" -gt 0 ]; then
    NODE_ARGS=(--gres="gpu:$GPUS_PER_NODE" --ntasks-per-node="$GPUS_PER_NODE")
fi

# SRUN_ARGS holds several words on purpose
# shellcheck disable=SC2086
exec srun -p "$PARTITION" \
    --job-name="$JOB_NAME" \
    ${NODE_ARGS[@]+"${NODE_ARGS[@]}"} \
    --ntasks="$GPUS" \
    --cpus-per-task="$CPUS_PER_TASK" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "$PYTHON" -u "$(dirname "$0")/test.py" "$CONFIG" "$CHECKPOINT" --launcher slurm "${@:5}"
