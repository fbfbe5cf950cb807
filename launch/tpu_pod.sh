#!/usr/bin/env bash
# Train an experiment or a group on a Cloud TPU, unattended: launch/tpu_pod.sh [OPTION...] NAME|GROUP [-- OVERRIDE...]
#
# Makes the TPU or uses the one that is there, sends the code of one commit to all its workers, starts a run on them in
# tmux, watches it, starts it again in the same workdir after a preemption or the death of a worker, and goes on with
# the next experiment of the group. Stop this program when you like: the run goes on, and the same command watches it
# again. What is done is marked in the bucket and skipped.
# docs/tpu.md says what it costs, what to do once, and what was never run on a real pod.
#
#   --bucket gs://B[/P]   where the workdirs are: gs://B/P/NAME                (TRM_BUCKET; needed)
#   --name NAME           of the TPU and its queued resource                   (TRM_TPU_NAME; trm)
#   --type TYPE           v4-64, v5litepod-16, v6e-32, ...                     (TRM_TPU_TYPE; v4-64)
#   --zone ZONE           (TRM_ZONE; us-central2-b for v4)
#   --project PROJECT     (TRM_PROJECT; gcloud's own)
#   --version VERSION     of the TPU's software                                (TRM_TPU_VERSION; the one for the type)
#   --spot                cheaper, and taken away at any time                  (TRM_SPOT=1)
#   --retries N           after a run has died and got no further than the last time (3); a stop with exit code 75 or
#                         a preemption does not count
#   --dirty               send the files as they are, committed or not
#   --delete-after        delete the TPU when everything has been tried
#   --dry-run             print the commands from nothing to done, run none
# Instead of training, for the TPU of that name (no NAME|GROUP):
#   --status              the TPU and each worker
#   --logs W | --attach W worker W: follow its log, or its tmux session (leave with Ctrl-B D)
#   --stop                save and stop the run; the TPU stays, and costs
#   --delete              delete the TPU
#
# OVERRIDEs are settings of every run (seed=1 optim.lr=3e-4); runs with other settings need another --bucket gs://B/P.
# TRM_CREATE_FLAGS (--network=... --reserved) and TRM_SSH_FLAGS (--internal-ip) are handed to gcloud.
# Exit codes: 0 all done, 1 a run failed or no TPU came, 2 bad input or a run was refused, 75 watching was stopped.
#
#   launch/tpu_pod.sh exp02a --bucket gs://mine/trm --spot --dry-run
#   launch/tpu_pod.sh exp02a --bucket gs://mine/trm --spot
#   launch/tpu_pod.sh exp02a_01 --bucket gs://mine/trm-seed1 -- seed=1
#   launch/tpu_pod.sh --status

set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
# shellcheck source=launch/tpu.sh
source "$repository/launch/tpu.sh"
# shellcheck source=launch/runs.sh
source "$repository/launch/runs.sh"
command_line=$(quoted launch/tpu_pod.sh "$@")

bucket=${TRM_BUCKET:-} name=${TRM_TPU_NAME:-trm} type=${TRM_TPU_TYPE:-v4-64} zone=${TRM_ZONE:-} project=${TRM_PROJECT:-}
version=${TRM_TPU_VERSION:-} spot=${TRM_SPOT:-0} retries=3 dirty=0 delete_after=0 action=launch worker=''
poll_s=${TRM_POLL_S:-30}          # between two looks
grace_s=${TRM_GRACE_S:-300}       # for the others to end by themselves once a worker has
tolerance=${TRM_TOLERANCE:-120}   # looks in a row at which gcloud may fail
shipped=(trm_jax experiments launch requirements-tpu.txt)

while (($#)); do
  case $1 in
    -h | --help) help "${BASH_SOURCE[0]}" ;;
    --)
      take_overrides "${@:2}"
      break
      ;;
    --*=*)
      set -- "${1%%=*}" "${1#*=}" "${@:2}"
      continue
      ;;
    --bucket | --name | --type | --zone | --project | --version | --retries)
      need_value "$@"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    --logs | --attach)
      need_value "$@"
      action=${1#--} worker=$2
      shift
      ;;
    --status | --stop | --delete) action=${1#--} ;;
    --spot | --dirty) printf -v "${1#--}" 1 ;;
    --delete-after) delete_after=1 ;;
    --dry-run) dry_run=1 ;;
    *) take_word "$1" ;;
  esac
  shift
done

[[ $retries =~ ^[0-9]+$ ]] || refuse "--retries $retries is not a whole number"
[[ $name =~ ^[a-z][a-z0-9-]*$ ]] || refuse "--name $name: use small letters, digits and hyphens"
[[ -z $worker || $worker =~ ^[0-9]+$ ]] || refuse "--$action $worker: give the number of a worker"
[[ $action == launch || -z $word ]] || refuse "--$action is about the TPU $name and takes no $word"
case $type in
  v2-* | v3-* | v4-*) runtime=tpu-ubuntu2204-base ;;
  v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
  v5p-*) runtime=v2-alpha-tpuv5 ;;
  v6e-*) runtime=v2-alpha-tpuv6e ;;
  *) runtime='' ;;
esac
version=${version:-$runtime}
[[ $type != v4-* ]] || zone=${zone:-us-central2-b} # the only zone that has them
[[ -n $zone && -n $version ]] || refuse "--type $type wants --zone$([[ $version ]] || echo ' and --version')"
place=(--zone="$zone" ${project:+--project="$project"})
read -ra create_flags <<<"${TRM_CREATE_FLAGS:-}"
read -ra ssh_flags <<<"${TRM_SSH_FLAGS:-}"
((!spot)) || create_flags=(--spot "${create_flags[@]}")
[[ $action == launch ]] || tolerance=1 pretend=ACTIVE
((dry_run)) || command -v gcloud >/dev/null ||
  refuse "gcloud is not installed; see https://cloud.google.com/sdk/docs/install"

lock=${TMPDIR:-/tmp}/trm-$UID-$name.pid
again="launch/tpu_pod.sh$([[ $name == trm ]] || echo " --name $name")" # as suggested; settings may stand in variables

# The commit to send: `tree` is what git calls it, `commit` its name on the workers.
choose_code() {
  local changed
  tree=$(git -C "$repository" rev-parse -q --verify HEAD) || refuse "$repository is no git checkout"
  commit=${tree:0:12}
  changed=$(git -C "$repository" status --porcelain -- "${shipped[@]}")
  [[ -n $changed ]] || return 0
  ((dirty)) || refuse "${changed%%$'\n'*} is not committed; commit, or send the files as they are: --dirty"
  export GIT_INDEX_FILE=$scratch/index # the checkout's own stays as it is
  git -C "$repository" read-tree HEAD
  git -C "$repository" add -A -- "${shipped[@]}"
  tree=$(git -C "$repository" write-tree)
  unset GIT_INDEX_FILE
  commit=$commit-dirty-${tree:0:12}
}

# The process that watches this TPU from here, if one does; its number may have been given to another program since.
watcher() {
  local process
  process=$(cat "$lock" 2>/dev/null) && [[ $(ps -o args= -p "$process") == *tpu_pod.sh* ]] && echo "$process"
}

# Two that watch one TPU would start everything twice.
watch_alone() {
  local other
  if ! (set -C && echo $$ >"$lock") 2>/dev/null; then
    ! other=$(watcher) || refuse "process $other watches $name already; see $again --status"
    echo $$ >"$lock"
  fi
  trap 'rm -rf "$scratch" "$lock"' EXIT
}

stop_watching() {
  say "no longer watching; what runs goes on. next: $command_line   (watches again), or $again --stop"
  exit 75
}

launch() {
  local member failed=() refused summary total
  [[ -n $bucket ]] || refuse "name a bucket for the workdirs: --bucket gs://... or TRM_BUCKET=gs://..."
  bucket=${bucket#gs://}
  root=gs://${bucket%/}
  choose_code
  find_members
  refused=("${left_out[@]}") total=$((${#members[@]} + ${#left_out[@]}))
  ((dry_run)) || watch_alone
  trap stop_watching INT TERM HUP
  exec </dev/null
  find_pending
  if ((${#pending[@]})); then
    connect
    for member in "${pending[@]}"; do
      train "$member"
      case $verdict in
        finished) ;;
        refused) refused+=("$member") ;;
        *) failed+=("$member") ;;
      esac
    done
  fi
  summary="$((total - ${#failed[@]} - ${#refused[@]})) of $total done"
  ((!${#failed[@]})) || summary+="; failed: ${failed[*]}"
  ((!${#refused[@]})) || summary+="; refused: ${refused[*]}"
  say "$summary"
  if ((delete_after)); then
    look
    delete || fail "$name is still there and costs: $(said)"
  elif ((!${#pending[@]})); then
    say "next: $again --status   (a TPU that is there costs)"
  else
    say "next: $again --delete   ($name costs until then)"
  fi
  ((!${#refused[@]})) || exit 2
  ((!${#failed[@]})) || exit 1
}

show_status() {
  look
  echo "queued resource $name: $request; TPU: $node$([[ $node == NONE ]] || echo ", $found_type, $workers workers")"
  if [[ $node == READY ]]; then
    ask idle
    show_workers
    echo "next: $again --logs 0"
  fi
}

delete_tpu() {
  local other
  if ((!dry_run)) && other=$(watcher); then
    say "process $other, which watches $name and would make another, is asked to end"
    kill -TERM "$other"
  fi
  look
  delete || fail "$name is still there: $(said)"
  say "$name is deleted"
}

case $action in
  launch) launch ;;
  status) show_status ;;
  logs) hand_over gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" "${ssh_flags[@]}" --worker="$worker" \
    --command='bash trm/now/launch/worker.sh log' ;;
  attach) hand_over gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" "${ssh_flags[@]}" --worker="$worker" \
    -- -t 'tmux -L trm attach -t trm' ;;
  stop)
    on_worker all '' halt || fail "not every worker of $name could be told to stop: $(said)"
    say "the run has stopped; $name costs until: $again --delete"
    ;;
  delete) delete_tpu ;;
esac
