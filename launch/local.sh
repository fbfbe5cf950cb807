#!/usr/bin/env bash
# See that an experiment or a group runs, on this machine's CPU:
# launch/local.sh [OPTION...] NAME|GROUP|PATTERN [-- OVERRIDE...]
#
# Makes the environment (.venv) where there is none, and runs `trm sweep --local`: every run shrunk to seconds.
#
#   --root DIR    where the runs are (runs)
#   --jobs N      runs side by side (1)
#   --dry-run     print the commands, run nothing
#
# OVERRIDEs are settings of every run (seed=1 optim.lr=3e-4). Exit codes are those of `trm sweep`.
#
#   launch/local.sh exp02a
#   launch/local.sh exp02a --root /tmp/try -- seed=1

set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

root=runs jobs=1
while (($#)); do
  case $1 in
    -h | --help) help "${BASH_SOURCE[0]}" ;;
    --)
      take_overrides "${@:2}"
      break
      ;;
    --dry-run=*) refuse "${1%%=*} takes no value" ;;
    --*=*)
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
      continue
      ;;
    --root | --jobs)
      need_value "$@"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    --dry-run) dry_run=1 ;;
    *) take_word "$1" ;;
  esac
  shift
done
[[ -n $word ]] || refuse "name an experiment or a group (trm list shows them); see --help"

if [[ -z ${TRM_PYTHON:-} ]]; then
  python=$repository/.venv/bin/python
  run make -s -C "$repository" install
fi
set_trm sweep "$word" --local --root "$root" --jobs "$jobs" "${settings[@]}"
hand_over env JAX_PLATFORMS=cpu "${trm[@]:1}"
