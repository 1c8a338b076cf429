#!/usr/bin/env bash
# What slurm_train.sh and slurm_test.sh have in common: one task per GPU, started by srun.
#   bash slurm.sh TOOL SCRIPT PARTITION JOB_NAME CONFIG WORK_DIR|CHECKPOINT [arguments of the tool]
set -euo pipefail
TOOL=$1
SCRIPT=$2
shift 2
INPUT=CHECKPOINT
OPTION=()
if [ "$TOOL" = train.py ]; then
    INPUT=WORK_DIR
    OPTION=(--work-dir)
fi

usage() {
    echo "usage: [GPUS=8 GPUS_PER_NODE=8 CPUS_PER_TASK=5 SRUN_ARGS= PYTHON=python]" \
        "bash $SCRIPT PARTITION JOB_NAME CONFIG $INPUT [arguments of tools/$TOOL]" >&2
    [ "$#" -eq 0 ] || echo "$(basename "$SCRIPT"): error: $*" >&2
    exit 2
}

[ "$#" -ge 4 ] || usage
GPUS=${GPUS:-8}
[[ "$GPUS" =~ ^[1-9][0-9]*$ ]] || usage "GPUS must be a whole number of at least 1, got '$GPUS'"
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
[[ "$GPUS_PER_NODE" =~ ^[0-9]+$ ]] || usage "GPUS_PER_NODE must be a whole number, got '$GPUS_PER_NODE'"
# a port of its own for each job, so that two jobs can share a machine; all tasks inherit it
export MASTER_PORT=${MASTER_PORT:-$((20000 + RANDOM % 12000))}

NODE_ARGS=()
if [ "$GPUS_PER_NODE" -gt 0 ]; then
    NODE_ARGS=(--gres="gpu:$GPUS_PER_NODE" --ntasks-per-node="$GPUS_PER_NODE")
fi

# SRUN_ARGS holds several words on purpose
# shellcheck disable=SC2086
exec srun -p "$1" \
    --job-name="$2" \
    ${NODE_ARGS[@]+"${NODE_ARGS[@]}"} \
    --ntasks="$GPUS" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "$0")/$TOOL" \
    "$3" ${OPTION[@]+"${OPTION[@]}"} "$4" --launcher slurm "${@:5}"
