#!/usr/bin/env bash
# A batch as a Slurm array: each task runs its part of the jobs, with one GPU.
#   sbatch --array=1-8 scripts/slurm-array.sh jobs.toml RESULTS [options for every job]
# Jobs and results lie on a disk that every node has. Submit it again to continue: what is done is
# not done again. The environment variable MASKORA names the repository, if not the current folder.
#SBATCH --job-name=maskora
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=4
#SBATCH --mem=64G
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

jobs=$1 results=$2
shift 2
first=${SLURM_ARRAY_TASK_MIN:-1} count=${SLURM_ARRAY_TASK_COUNT:-1}
last=${SLURM_ARRAY_TASK_MAX:-$((first + count - 1))}
part=$((${SLURM_ARRAY_TASK_ID:?start it with sbatch --array=1-N} - first + 1))
if ((first > 1 || last - first + 1 != count)); then
    echo "slurm-array.sh: some tasks of an array are other parts of the jobs than before: submit" \
        "all of it again (--array=1-N)" >&2
    exit 2
fi
# Slurm runs a copy of this file, from somewhere else.
repository=${MASKORA:-${SLURM_SUBMIT_DIR:-.}}
exec "$repository/scripts/batch.sh" "$jobs" "$results" \
    --part "$part/$count" -- "$@"
