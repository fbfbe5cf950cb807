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
#   --check               look for what would stop all this, one line each, and make nothing (trm doctor --pod: a table)
#   --dry-run             print the commands from nothing to done, run none
# Instead of training, for the TPU of that name (no NAME|GROUP):
#   --status              the TPU and each worker
#   --logs W | --attach W worker W: follow its log, or its tmux session (leave with Ctrl-B D)
#   --stop                end the launcher of this machine, save and stop the run; the TPU stays, and costs
#   --delete              end the launcher of this machine, delete the TPU
#
# OVERRIDEs are settings of every run (seed=1 optim.lr=3e-4); runs with other settings need another --bucket gs://B/P.
# TRM_CREATE_FLAGS (--network=... --reserved) and TRM_SSH_FLAGS (--internal-ip) are handed to gcloud.
# Exit codes: 0 all done, 1 a run failed, no TPU came or answers, or somebody else started a run on it, 2 bad input or a
# run was refused, 75 watching was stopped.
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
# shellcheck source=launch/check.sh
source "$repository/launch/check.sh"
command_line=$(quoted launch/tpu_pod.sh "$@")

bucket=${TRM_BUCKET:-} name=${TRM_TPU_NAME:-trm} type=${TRM_TPU_TYPE:-v4-64} zone=${TRM_ZONE:-} project=${TRM_PROJECT:-}
version=${TRM_TPU_VERSION:-} spot=${TRM_SPOT:-0} retries=3 dirty=0 delete_after=0 action=launch worker=''
poll_s=${TRM_POLL_S:-30}          # between two looks
grace_s=${TRM_GRACE_S:-300}       # for the others to end by themselves once a worker has
tolerance=${TRM_TOLERANCE:-120}   # looks in a row at which gcloud may fail
address='^(gs://)?[A-Za-z0-9][A-Za-z0-9._-]*(/[^/*?[]+)*/?$'
shipped=(trm_jax experiments launch requirements-tpu.txt)

while (($#)); do
  case $1 in
    -h | --help) help "${BASH_SOURCE[0]}" ;;
    --)
      take_overrides "${@:2}"
      break
      ;;
    --status=* | --stop=* | --delete=* | --check=* | --spot=* | --dirty=* | --delete-after=* | --dry-run=*)
      refuse "${1%%=*} takes no value"
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
    --status | --stop | --delete | --check) action=${1#--} ;;
    --spot | --dirty) printf -v "${1#--}" 1 ;;
    --delete-after) delete_after=1 ;;
    --dry-run) dry_run=1 ;;
    *) take_word "$1" ;;
  esac
  shift
done

[[ $retries =~ ^[0-9]+$ ]] || refuse "--retries $retries is not a whole number"
retries=$((10#$retries)) # 08 is no octal number
[[ $spot == [01] ]] || refuse "TRM_SPOT=$spot: give 1 or 0"
[[ $name =~ ^[a-z][a-z0-9-]*$ ]] || refuse "--name $name: use small letters, digits and hyphens"
[[ -z $worker || $worker =~ ^[0-9]+$ ]] || refuse "--$action $worker: give the number of a worker"
[[ $action == launch || $action == check || -z $word ]] || refuse "--$action is about the TPU $name and takes no $word"
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
((dry_run)) || [[ $action == check ]] || command -v gcloud >/dev/null ||
  refuse "gcloud is not installed; see https://cloud.google.com/sdk/docs/install"

# As suggested, wherever the settings come from.
again=launch/tpu_pod.sh
[[ $name == trm ]] || again+=" --name $name"
[[ $zone == us-central2-b ]] || again+=" --zone $zone"
[[ -z $project ]] || again+=" --project $project"

# Sets `here`, where files about this TPU are kept on this machine. gcloud's own project is asked for once: another one
# that is chosen later has no such TPU, and would get one.
find_place() {
  if [[ -z $project ]] && gc '' config get-value project && [[ -n $answer ]]; then
    project=$answer
    export CLOUDSDK_CORE_PROJECT=$project
  fi
  here=${TMPDIR:-/tmp}/trm-$UID-${project:+${project//:/.}-}$zone-$name
}

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
  process=$(cat "$here.pid" 2>/dev/null) && [[ $(ps -o args= -p "$process") == *tpu_pod.sh* ]] && echo "$process"
}

# Two that watch one TPU would start everything twice.
watch_alone() {
  local other
  if ! (set -C && echo $$ >"$here.pid") 2>/dev/null; then
    ! other=$(watcher) || refuse "process $other watches $name already; see $again --status"
    echo $$ >"$here.pid"
    sleep 0.2 # another may have found the same leftover: the last to write has it
    other=$(cat "$here.pid")
    [[ $other == "$$" ]] || refuse "process $other watches $name already; see $again --status"
  fi
  trap 'rm -rf "$scratch" "$here.pid" "$here.tar.gz"' EXIT
}

stop_watching() {
  if [[ -z $node || $node == READY ]]; then
    say "no longer watching; what runs goes on. next: $command_line   (watches again), or $again --stop"
  else
    say "no longer waiting; the request for $name stays, and costs once it is granted." \
      "next: $command_line   (waits again), or $again --delete"
  fi
  exit 75
}

make_way() {
  say "ended by --stop or --delete. next: $command_line   (goes on from there)"
  exit 75
}

# Ends the launcher that watches this TPU from here, and waits: what it has begun may still make a TPU or start a run.
end_watcher() {
  local other
  if ((dry_run)) || ! other=$(watcher); then
    return 0
  fi
  say "process $other, which watches $name, is asked to end; waiting for it"
  kill -USR1 "$other" 2>/dev/null || true
  while [[ $(watcher) == "$other" ]]; do
    sleep 0.1
  done
}

# Sets `root`, the folder of the workdirs.
find_root() {
  [[ -n $bucket ]] || refuse "name a bucket for the workdirs: --bucket gs://... or TRM_BUCKET=gs://..."
  [[ $bucket =~ $address ]] || refuse "--bucket $bucket: give gs://BUCKET or gs://BUCKET/FOLDER"
  bucket=${bucket#gs://}
  root=gs://${bucket%/}
}

launch() {
  local member failed=() refused summary total
  find_root
  choose_code
  find_members
  refused=("${left_out[@]}") total=$((${#members[@]} + ${#left_out[@]}))
  find_place
  trap stop_watching INT TERM HUP
  trap make_way USR1
  ((dry_run)) || watch_alone
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
  ((dry_run)) ||
    echo "queued resource $name: $request; TPU: $node$([[ $node == NONE ]] || echo ", $found_type, $workers workers")"
  [[ $node == READY ]] || return 0
  ask idle
  ((dry_run)) || show_workers
}

stop_run() {
  find_place
  end_watcher
  look
  case $request/$node in
    */READY)
      # A TPU that has just come has no code yet.
      on all '' '! test -e trm/now || bash trm/now/launch/worker.sh halt' ||
        fail "not every worker of $name could be told to stop: $(said)"
      say "the run has stopped; $name costs until: $again --delete"
      ;;
    NONE/NONE) say "there is no TPU $name in $zone, and none is asked for" ;;
    *) say "nothing runs: $name is $request, its TPU $node; it costs once it is granted, until: $again --delete" ;;
  esac
}

delete_tpu() {
  find_place
  end_watcher
  look
  delete || fail "$name is still there: $(said)"
  if [[ $request/$node == NONE/NONE ]]; then
    say "there is no TPU $name in $zone"
  else
    say "$name is deleted"
  fi
}

case $action in
  launch) launch ;;
  check) check ;;
  status) show_status ;;
  logs) hand_over gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" "${ssh_flags[@]}" --worker="$worker" \
    --command='bash trm/now/launch/worker.sh log' ;;
  attach) hand_over gcloud compute tpus tpu-vm ssh "$name" "${place[@]}" "${ssh_flags[@]}" --worker="$worker" \
    -- -t 'tmux -L trm attach -t trm' ;;
  stop) stop_run ;;
  delete) delete_tpu ;;
esac
