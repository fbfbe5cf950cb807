# shellcheck shell=bash
# A Cloud TPU through gcloud: how it is, how to get it, what its workers say. To be sourced by tpu_pod.sh, whose
# settings it uses: name zone project type version spot poll_s retries tolerance here.
# shellcheck disable=SC2154

export CLOUDSDK_CORE_DISABLE_PROMPTS=1
answer='' pretend=NONE # in a dry run nothing is there until it is made
request='' node='' workers=0 state=()
# What gcloud says of names, values and rights that stay wrong however often it is asked.
lasting='PERMISSION_DENIED|INVALID_ARGUMENT|permission denied|not have permission|not have [a-z.]* access'
lasting+='|not found: 404|HTTPError 40[034]|not a valid|invalid (value|choice|bucket)|unrecognized arguments'
lasting+='|required property|not properly specified|active account'

# gc PRESUMED ARGUMENT...: gcloud; sets `answer`. A dry run prints the command and takes PRESUMED for the answer.
gc() {
  if ((dry_run)); then
    run gcloud "${@:2}"
    answer=$1
  else
    answer=$(gcloud "${@:2}" 2>"$scratch/said")
  fi
}

# The line of gcloud's that says what is wrong.
said() { { grep -m 1 ERROR "$scratch/said" || tail -n 1 "$scratch/said"; } | tail -n 1; }

# Not `sleep` alone: bash answers signals only between commands, and in `wait`.
pause() {
  ((dry_run)) && return
  sleep "$poll_s" &
  wait $!
}

# inquire TROUBLE ABSENT PRESUMED ARGUMENT...: gc for a question; returns 1 when what gcloud says matches ABSENT. What
# may pass is asked again: a network that is away says nothing about the TPU. What lasts is refused, until the first
# look at the TPU is over; from then on names and rights are known to be good.
inquire() {
  local try
  for ((try = 1; ; try++)); do
    ! gc "${@:3}" || return 0
    ! grep -qE "$2" "$scratch/said" || return 1
    [[ -n $node ]] || ! grep -qiE "$lasting" "$scratch/said" || refuse "$1: $(said)"
    ((try < tolerance)) || fail "$1: $(said)"
    ((try > 1)) || say "gcloud: $(said); asking again"
    pause
  done
}

# describe KIND FORMAT PRESUMED: sets `answer`, NONE for what is not there.
describe() {
  local presumed=$3
  [[ $pretend != NONE ]] || presumed=NONE
  inquire "gcloud says nothing of $name" 'NOT_FOUND|was not found' "$presumed" \
    compute tpus "$1" describe "$name" "${place[@]}" --format="$2" || answer=NONE
}

# Sets `request` (state of the queued resource), `node` (state of the TPU), `found_type` and `workers`.
look() {
  describe queued-resources 'value(state.state)' ACTIVE
  request=$answer
  describe tpu-vm 'value(state,acceleratorType,networkEndpoints.len())' "READY $type 1"
  read -r node found_type workers <<<"$answer"
}

create() {
  say "asking for $name, a $type in $zone$( ((spot)) && echo ', spot')"
  if gc '' compute tpus queued-resources create "$name" "${place[@]}" --node-id="$name" --accelerator-type="$type" \
    --runtime-version="$version" --async "${create_flags[@]}"; then
    pretend=ACTIVE
  elif grep -qiE "$lasting" "$scratch/said"; then
    refuse "gcloud makes no $name: $(said)"
  else
    grep -q ALREADY_EXISTS "$scratch/said"
  fi
}

# A queued resource goes with its TPU; a TPU that was made without one goes alone.
delete() {
  if [[ $request != NONE ]]; then
    gc '' compute tpus queued-resources delete "$name" "${place[@]}" --force --quiet
  elif [[ $node != NONE ]]; then
    gc '' compute tpus tpu-vm delete "$name" "${place[@]}" --quiet
  fi
}

# Returns once the TPU is READY: waits for one that is coming, replaces one that was taken away, never touches a READY
# one.
get_tpu() {
  local before='' troubles=0
  while :; do
    look
    [[ $request/$node == "$before" ]] || say "queued resource $name: $request; TPU: $node"
    before=$request/$node
    case $before in
      ACCEPTED/* | CREATING/* | WAITING_FOR_RESOURCES/* | PROVISIONING/* | SUSPENDING/* | DELETING/*) ;;
      FAILED/*)
        describe queued-resources 'value(state.failedData.error.message)' ''
        trouble "the request failed: ${answer%%$'\n'*}"
        delete || trouble "$(said)"
        ;;
      */READY)
        [[ $found_type == "$type" ]] ||
          refuse "$name is a $found_type, not a $type; give --type $found_type, or another --name"
        return
        ;;
      */STOPPED)
        fail "$name is stopped; first: $(quoted gcloud compute tpus tpu-vm start "$name" "${place[@]}")"
        ;;
      SUSPENDED/* | */PREEMPTED | */TERMINATED | */UNKNOWN | ACTIVE/NONE) delete || trouble "$(said)" ;;
      NONE/NONE)
        if create; then
          continue
        fi
        trouble "$(said)"
        ;;
    esac
    pause
  done
}

# What may pass: counted in the `troubles` of get_tpu.
trouble() {
  ((++troubles <= retries)) || fail "no TPU $name after $troubles troubles, the last: $1"
  say "$name: $1; once more"
}

# on WORKER PRESUMED COMMAND: what a shell on that worker (or on all) runs; it must bear being run twice.
on() { gc "$2" compute tpus tpu-vm ssh "$name" "${place[@]}" "${ssh_flags[@]}" --worker="$1" --command="$3"; }

# on_worker WORKER PRESUMED ARGUMENT...: worker.sh there.
on_worker() { on "$1" "$2" "bash trm/now/launch/worker.sh $(quoted "${@:3}")"; }

# The code of `tree` under the name `commit` on every worker, and what it needs.
ship() {
  local archive=$here.tar.gz there=trm/src/$commit key=$HOME/.ssh/google_compute_engine
  # An ssh agent that does not know the key keeps gcloud from talking to several workers.
  if [[ -n ${SSH_AUTH_SOCK:-} && -f $key ]] && ! ssh-add -T "$key.pub" 2>/dev/null; then
    run ssh-add -q "$key"
  fi
  say "sending $commit to the workers of $name and installing what it needs"
  run git -C "$repository" archive --format=tar.gz --output="$archive" "$tree" "${shipped[@]}" 2>"$scratch/said" ||
    fail "git makes no archive of the code, and $name is READY and costs: $(said)"
  gc '' compute tpus tpu-vm scp "$archive" "$name:trm-$commit.tar.gz" "${place[@]}" "${ssh_flags[@]}" --worker=all &&
    on all '' "set -e; if ! test -d $there; then rm -rf $there.new; mkdir -p $there.new; \
tar -xzf trm-$commit.tar.gz -C $there.new; mv $there.new $there; fi; bash $there/launch/worker.sh install"
}

# A TPU that is READY and whose workers have the code: whatever was there before.
connect() {
  local try
  for ((try = 1; ; try++)); do
    get_tpu
    if ship; then
      return
    fi
    ((try <= retries)) || fail "the workers of $name do not take the code though it is READY and costs: $(said)"
    say "gcloud: $(said); once more"
    pause
  done
}

# Sets `state` by worker: "running ID", "exit CODE ID", "gone ID", "stopped ID", "idle"; empty where none answered.
ask() {
  local line
  state=()
  on_worker all "worker 0 $1" state || true
  while IFS= read -r line; do
    [[ ! $line =~ ^worker\ ([0-9]+)\ (.+)$ ]] || state[BASH_REMATCH[1]]=${BASH_REMATCH[2]}
  done <<<"$answer"
}

show_workers() {
  local worker
  for ((worker = 0; worker < workers; worker++)); do
    echo "worker $worker: ${state[worker]:-does not answer}"
  done
  echo "next: $again --logs 0"
}
