#!/bin/bash
# A recipe on two nodes of eight GPUs under Slurm. Not run.
#   sbatch recipes/accelerate/slurm.sh r1_distill_1.5b/dler trainer.steps_per_generation=128 trainer.gradient_accumulation_steps=16
# A job that Slurm requeues goes on with its last checkpoint.
#SBATCH --job-name=reason-rl
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --output=outputs/slurm-%j.log
#SBATCH --requeue
set -euo pipefail

if [ "$#" -eq 0 ]; then
    echo "usage: sbatch $0 RECIPE [key=value ...]" >&2
    exit 2
fi

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
resume=()
if [ "${SLURM_RESTART_COUNT:-0}" -gt 0 ]; then
    resume=(--resume)
fi

# One launcher a node; it starts a process a GPU. SLURM_NODEID is set by srun, so it is read on the node.
srun --kill-on-bad-exit=1 bash -c '
    first=$1
    shift
    exec accelerate launch \
        --config_file recipes/accelerate/gpu_2x8_ddp.yaml \
        --num_machines "$SLURM_NNODES" \
        --num_processes "$((SLURM_NNODES * SLURM_GPUS_ON_NODE))" \
        --machine_rank "$SLURM_NODEID" \
        --main_process_ip "$first" \
        --main_process_port 29500 \
        -m reason_rl.cli train "$@"
' launch "$first" "$@" "${resume[@]}"
