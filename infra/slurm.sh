#!/usr/bin/env bash
# One study on the nodes of a Slurm job:  sbatch infra/slurm.sh ablation_pixels --gpus-per-trial 0.5
# Everything after the script's name goes to `python -m study run`. Options of sbatch before it (--nodes 4
# --gpus-per-node 2 --partition gpu) replace those below. The environment with the package must be active, and the
# home (STUDY_HOME, default runs/ below the folder that sbatch was called in) must be shared by the nodes.
#
# Two minutes before the time limit Slurm sends USR1 to this script: the study stops at its checkpoints, the job is put
# back into the queue, and the same command continues there. TERM (scancel, preemption) stops the study without that.
#SBATCH --job-name=study
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=04:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

if [ $# -eq 0 ]; then
    echo "A study must be named: sbatch infra/slurm.sh NAME [options of 'python -m study run']." >&2
    exit 2
fi
: "${SLURM_JOB_ID:?This script runs inside a Slurm job: start it with sbatch.}"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]} # the node that this script runs on
export STUDY_HOME=${STUDY_HOME:-$SLURM_SUBMIT_DIR/runs}

# Other users can reach the nodes, and whoever can speak to Ray can run programs as you: a new token for every job.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(python -c 'import secrets; print(secrets.token_hex(32))')
export RAY_USAGE_STATS_ENABLED=0

# Ports and a folder of this job's own: two jobs may share a node.
port=$((20000 + SLURM_JOB_ID % 1200 * 10))
scratch=/tmp/ray-$SLURM_JOB_ID
address=$head:$port
resources=(--num-cpus "${SLURM_CPUS_PER_TASK:-1}" --num-gpus "${SLURM_GPUS_ON_NODE:-0}"
    --temp-dir "$scratch" --dashboard-agent-listen-port $((port + 2)))

steps=()
driver=
requeue=no
stop() { # of the study: it leaves its trials at their checkpoints
    if [ -n "$driver" ]; then kill -TERM "$driver" 2>/dev/null || true; else exit 143; fi
}
clean() {
    trap - EXIT
    if [ ${#steps[@]} -gt 0 ]; then
        kill -TERM "${steps[@]}" 2>/dev/null || true
        wait "${steps[@]}" 2>/dev/null || true
    fi
    srun --overlap --nodes="${#nodes[@]}" --ntasks="${#nodes[@]}" rm -rf "$scratch" || true
    # Last of all: Slurm ends the job as soon as it is put back.
    if [ "$requeue" = yes ]; then scontrol requeue "$SLURM_JOB_ID"; fi
}
trap clean EXIT
trap 'requeue=yes; stop' USR1
trap stop TERM INT

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --block --port "$port" --include-dashboard false \
    --ray-client-server-port $((port + 1)) "${resources[@]}" &
steps+=($!)

wait_for() { # SECONDS WHAT COMMAND...
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@" >/dev/null 2>&1; do
        if [ $SECONDS -ge $deadline ]; then
            echo "Ray's $what did not start in time; see the lines above." >&2
            exit 1
        fi
        sleep 2
    done
}
wait_for 120 "head node" ray health-check --address "$address"

if [ ${#nodes[@]} -gt 1 ]; then
    others=$((${#nodes[@]} - 1))
    srun --overlap --nodes="$others" --ntasks="$others" --exclude="$head" \
        ray start --address "$address" --block "${resources[@]}" &
    steps+=($!)
fi

# All nodes first: what a node lacks is then said before the first trial, not when it joins.
count_nodes='
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
sys.exit(sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]))
'
wait_for 300 "other nodes" python -c "$count_nodes" "$address" "${#nodes[@]}"

python -m study run "$@" --address "$address" &
driver=$!
code=0
while :; do
    code=0
    wait "$driver" || code=$?
    # A signal interrupts the waiting, not the study, which needs some seconds to stop.
    if [ $code -le 128 ] || ! kill -0 "$driver" 2>/dev/null; then break; fi
done
if [ $code -eq 0 ]; then requeue=no; fi # it was quicker than the time limit
exit $code
