#!/usr/bin/env bash
# Train in a Slurm allocation.
# usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of tools/train.py]
# environment: GPUS (8), GPUS_PER_NODE (at most 8), CPUS_PER_TASK (5), SRUN_ARGS
set -euo pipefail
partition=${1:?usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of tools/train.py]}
job_name=${2:?usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of tools/train.py]}
config=${3:?usage: tools/slurm_train.sh PARTITION JOB_NAME CONFIG [options of tools/train.py]}
gpus=${GPUS:-8}
gpus_per_node=${GPUS_PER_NODE:-$((gpus < 8 ? gpus : 8))}
# shellcheck disable=SC2086  # SRUN_ARGS holds several words
exec srun --partition="$partition" --job-name="$job_name" --gres=gpu:"$gpus_per_node" \
    --ntasks="$gpus" --ntasks-per-node="$gpus_per_node" --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 ${SRUN_ARGS:-} \
    python -u "$(dirname "$0")/train.py" "$config" --launcher slurm "${@:4}"
