#!/usr/bin/env bash
# Train an experiment or a group on GPUs: launch/gpu.sh [OPTION...] NAME|GROUP|PATTERN [-- OVERRIDE...]
#
# On this machine it checks that CUDA is there and runs `trm sweep`: what is done is skipped, what was begun goes on.
# With --slurm it submits launch/slurm.sbatch, which does the same on a node and goes back into the queue, with all
# that is done kept, when its time is up.
#
#   --gpus 0,1       these GPUs, by number or UUID as nvidia-smi -L has them (those of CUDA_VISIBLE_DEVICES; all where
#                    that is unset); with --slurm how many: --gpus 2 (1)
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
    --slurm=* | --dry-run=*) refuse "${1%%=*} takes no value" ;;
    --gpus=* | --jobs=* | --root=* | --sbatch=*)
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
      continue
      ;;
    --gpus | --jobs | --root)
      need_value "$@"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    --sbatch)
      need_value "$@"
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

# Sets `visible` to the variables that show CUDA the GPUs to use, and `count` to how many they are; one line says what
# is missing.
find_gpus() {
  local listed there wanted asked gpu seen=,
  command -v nvidia-smi >/dev/null || refuse "there is no nvidia-smi: install NVIDIA's driver, or launch/local.sh"
  listed=$(nvidia-smi -L 2>&1) || refuse "nvidia-smi: ${listed%%$'\n'*}; see to the driver first"
  there=$(sed -n 's/^GPU \([0-9]*\):.*/\1/p' <<<"$listed" | paste -s -d , -)
  visible=(CUDA_DEVICE_ORDER=PCI_BUS_ID) # that of nvidia-smi, CUDA's own is another
  if [[ -n $gpus ]]; then
    asked="--gpus $gpus"
  elif [[ -n ${CUDA_VISIBLE_DEVICES+set} ]]; then
    gpus=$CUDA_VISIBLE_DEVICES asked="CUDA_VISIBLE_DEVICES=$gpus" visible=()
  else
    gpus=$there asked="nvidia-smi -L"
  fi
  visible+=(CUDA_VISIBLE_DEVICES="$gpus")
  [[ -n $gpus ]] || refuse "$asked names no GPU"
  IFS=, read -ra wanted <<<"$gpus,"
  count=${#wanted[@]}
  for gpu in "${wanted[@]}"; do
    [[ -n $gpu ]] || refuse "$asked: a GPU is missing beside a comma"
    [[ $seen != *,"$gpu",* ]] || refuse "$asked names $gpu twice"
    seen+=$gpu,
    if [[ $gpu =~ ^(GPU|MIG)-[A-Za-z0-9/-]+$ ]]; then
      [[ $listed == *"UUID: $gpu"* ]] || refuse "$asked: nvidia-smi -L knows no $gpu"
    else
      [[ ,$there, == *,"$gpu",* ]] || refuse "$asked: there is no GPU $gpu, only $there"
    fi
  done
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
  hand_over env "${visible[@]}" "${trm[@]:1}"
fi
