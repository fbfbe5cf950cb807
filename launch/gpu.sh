#!/usr/bin/env bash
# Train an experiment or a group on GPUs: launch/gpu.sh [OPTION...] NAME|GROUP|PATTERN [-- OVERRIDE...]
#
# On this machine it checks that CUDA is there and runs `trm sweep`: what is done is skipped, what was begun goes on.
# With --slurm it submits launch/slurm.sbatch, which does the same on a node and goes back into the queue, with all
# that is done kept, when its time is up.
#
#   --gpus 0,1       these GPUs (all); with --slurm their number: --gpus 2 (1)
#   --jobs N         runs side by side, each with its share of the GPUs (one a GPU, where there are that many runs)
#   --root DIR       where the runs are (runs)
#   --slurm          submit it
#   --sbatch OPTION  of sbatch, as often as needed: --sbatch --time=8:00:00 --sbatch --partition=a100
#   --dry-run        print the command, run nothing
#
# OVERRIDEs are settings of every run (seed=1 optim.lr=3e-4). Exit codes are those of `trm sweep`.
#
#   launch/gpu.sh baseline_768 --gpus 0
#   launch/gpu.sh exp02a --gpus 0,1,2,3 -- seed=1
#   launch/gpu.sh exp02a --slurm --gpus 4 --sbatch --time=8:00:00

set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

gpus='' jobs='' root=runs slurm=0 sbatch_options=()
while (($#)); do
  case $1 in
    -h | --help) help "${BASH_SOURCE[0]}" ;;
    --)
      take_overrides "${@:2}"
      break
      ;;
    --gpus=* | --jobs=* | --root=*)
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
      continue
      ;;
    --gpus | --jobs | --root)
      need_value "$1" $#
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    --sbatch)
      need_value "$1" $#
      sbatch_options+=("$2")
      shift
      ;;
    --slurm) slurm=1 ;;
    --dry-run) dry_run=1 ;;
    *) take_word "$1" ;;
  esac
  shift
done
[[ -z $jobs || $jobs =~ ^[1-9][0-9]*$ ]] || refuse "--jobs $jobs is not a whole number of at least 1"

# Sets `gpus` to the GPUs to use, and `count` to how many they are; one line says what is missing.
find_gpus() {
  local there gpu
  command -v nvidia-smi >/dev/null || refuse "there is no nvidia-smi: install NVIDIA's driver, or launch/local.sh"
  there=$(nvidia-smi --query-gpu=index --format=csv,noheader 2>&1) ||
    refuse "nvidia-smi: ${there%%$'\n'*}; see to the driver first"
  there=${there//$'\n'/,}
  gpus=${gpus:-$there}
  for gpu in ${gpus//,/ }; do
    [[ ,$there, == *,$gpu,* ]] || refuse "--gpus $gpus: there is no GPU $gpu, only $there"
  done
  count=$(wc -w <<<"${gpus//,/ }")
  "$python" -c 'import importlib.util as u, sys
sys.exit(not any(u.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)))' ||
    refuse "JAX has no CUDA here: $python -m pip install '.[gpu]' (drivers before 580: '.[gpu-cuda12]')"
}

submit() {
  command -v sbatch >/dev/null || ((dry_run)) || refuse "there is no sbatch: run this on a SLURM login node"
  run mkdir -p "$root"
  run sbatch --job-name="trm-$word" --gres="gpu:$count" --output="$root/slurm-%j.log" "${sbatch_options[@]}" \
    "$repository/launch/slurm.sbatch" "$repository" "$python" "${sweep[@]}"
  say "next: squeue --me   and: tail -f $root/slurm-*.log"
}

find_members
if ((slurm)); then
  count=${gpus:-1}
  [[ $count =~ ^[1-9][0-9]*$ ]] || refuse "--gpus $gpus: with --slurm give their number, for example --gpus 2"
else
  find_gpus
fi
jobs=${jobs:-$((${#members[@]} < count ? ${#members[@]} : count))}
sweep=(sweep "$word" --root "$root" --jobs "$jobs" "${settings[@]}")
if ((slurm)); then
  submit
else
  set_trm "${sweep[@]}"
  hand_over env CUDA_VISIBLE_DEVICES="$gpus" "${trm[@]:1}"
fi
