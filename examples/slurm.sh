#!/bin/bash
# A study as a Slurm job array: one shard a task, no word between them. A task that runs into its time limit is
# requeued and goes on where it was.
#
#   sbatch examples/slurm.sh study.toml out                # 40 shards
#   sbatch --array=7,12 examples/slurm.sh study.toml out   # two of the 40 again
#   midguide study status out                              # how far all of them are
#   midguide study merge out && midguide study report out
#
#SBATCH --job-name=midguide
#SBATCH --array=1-40
#SBATCH --ntasks=1
#SBATCH --cpus-per-task=1
#SBATCH --mem=4G
#SBATCH --time=02:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@60
#SBATCH --output=midguide-%A-%a.log
set -u

study=$1 out=$2
# Not SLURM_ARRAY_TASK_COUNT: that is 2 where two of 40 shards run again.
shards=${SHARDS:-40}

trap 'kill -TERM "$run"' TERM
midguide study run "$study" --shard "$SLURM_ARRAY_TASK_ID/$shards" --out "$out" \
    --workers "${SLURM_CPUS_PER_TASK:-1}" &
run=$!
wait "$run"
code=$?
if [ "$code" -gt 128 ]; then # perhaps it was `wait` that the signal ended
    wait "$run"
    again=$?
    [ "$again" -ne 127 ] && code=$again
fi
if [ "$code" -eq 143 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
