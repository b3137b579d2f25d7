#!/usr/bin/env bash
# Evaluate with several processes on one machine, or on several machines.
# usage: tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]
# environment: NNODES (1), NODE_RANK (0), MASTER_ADDR (127.0.0.1), MASTER_PORT (29500)
set -euo pipefail
config=${1:?usage: tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]}
checkpoint=${2:?usage: tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]}
processes=${3:?usage: tools/dist_test.sh CONFIG CHECKPOINT PROCESSES [options of tools/test.py]}
# exec: a signal to this script reaches the processes
exec python -m mmfasternet.cli.launch \
    --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --nproc_per_node="$processes" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" --master_port="${MASTER_PORT:-29500}" \
    "$(dirname "$0")/test.py" "$config" "$checkpoint" --launcher pytorch "${@:4}"
