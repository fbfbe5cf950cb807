# shellcheck shell=bash
# A run on the workers of a TPU: started, watched, started again, marked as done. To be sourced by tpu_pod.sh, whose
# settings it uses: root commit settings retries grace_s again.
# shellcheck disable=SC2154

verdict='' attempt=0 silent=() unheard=0 reason=''

# describe_run MEMBER: sets what is run for it (`arguments`), the name of that with that code (`run_id`), and the object
# that says that it is done.
describe_run() {
  local digest
  arguments=(train "$1" --workdir "$root/$1" --multihost "${settings[@]}")
  digest=$(printf '%s\0' "${arguments[@]}" | git hash-object --stdin | cut -c 1-12)
  run_id=$1-$digest-$commit
  mark=$root/$1/done-$digest.txt
}

# Sets `pending` to the members that are not marked as done. Asked before anything is made: it finds a missing bucket.
find_pending() {
  local member
  pending=()
  for member in "${members[@]}"; do
    describe_run "$member"
    if inquire "$root cannot be read" 'matched no objects' '' storage ls "$mark" && ((!dry_run)); then
      say "$member is done: $mark"
    else
      pending+=("$member")
    fi
  done
}

mark_done() {
  gc '' storage cp - "$mark" <<<"commit $commit: $(quoted python -m trm_jax "${arguments[@]}")" ||
    say "warning: $1 is done, and could not be marked so in $mark: $(said)"
}

# Sets `verdict` to how run ID ended on all workers, and `culprit` to a worker whose log says why.
judge() {
  local number
  local -A by=()
  for ((number = 0; number < workers; number++)); do
    case ${state[number]:-} in
      "exit 0 $1") by[finished]=$number ;;
      "exit 1 $1") by[diverged]=$number ;;
      "exit 2 $1") by[refused]=$number ;;
      "exit 75 $1") by[saved]=$number ;;
      "stopped $1") by[halted]=$number ;;
      "running $1") by[behind]=$number ;;
      '' | idle | *" $1") by[failed]=$number ;;
      *) by[taken]=$number ;; # another run has been started there since
    esac
  done
  for verdict in taken refused halted failed diverged behind saved finished; do
    culprit=${by[$verdict]:-}
    [[ -z $culprit ]] || break
  done
  [[ $verdict != behind ]] || verdict=failed
}

# listen ID: asks for `state`, and for how the TPU is when some workers are `silent`. Says when that lasts, and when it
# is over.
listen() {
  local number
  ask "$1"
  reason=$(said) silent=()
  for ((number = 0; number < workers; number++)); do
    [[ -n ${state[number]:-} ]] || silent+=("$number")
  done
  if ((!${#silent[@]})); then
    ((unheard < 5)) || say "all workers of $name answer again"
    unheard=0
    return
  fi
  look
  if [[ $node != READY ]]; then
    unheard=0
  elif ((++unheard == 5)); then
    say "workers ${silent[*]} of $name, which is READY, do not answer; look at ssh and the firewall;" \
      "what runs there goes on. gcloud: $reason"
  fi
}

# watch ID: returns with a `verdict` once it has ended everywhere, or has ended somewhere and the others do not follow,
# or the TPU is lost.
watch() {
  local one running early mute=0 ended_at=''
  while :; do
    listen "exit 0 $1"
    if [[ $node != READY ]]; then
      verdict=lost
      return
    fi
    running=${#silent[@]} early=0 # who does not answer may be at work
    for one in "${state[@]}"; do
      case $one in
        "running $1") running=$((running + 1)) ;;
        "exit 2 $1" | "stopped $1") early=1 ;;
        idle | *" $1") ;;
        *) early=1 ;;
      esac
    done
    mute=$((${#state[@]} ? 0 : mute + 1))
    ((mute < tolerance)) || fail "no worker of $name answered at $mute looks in a row; it is READY and costs: $reason"
    if ((early || running == 0)); then
      judge "$1"
      return
    elif ((running == workers)); then
      ended_at='' # all that answer are at work
    elif ((SECONDS - ${ended_at:=$SECONDS} >= grace_s)); then
      judge "$1"
      return
    fi
    pause
  done
}

# Sets `attempt` to the last one of run_id on any worker, and `verdict` to finished when it is so on all, to running when
# all the others still run. Patient: a run that does not answer may well be healthy.
find_attempt() {
  local number one
  while listen idle && ((${#silent[@]})); do
    [[ $node == READY ]] || connect
    ((unheard < tolerance)) || fail "workers ${silent[*]} of $name, which is READY and costs, do not answer: $reason"
    pause
  done
  attempt=0 verdict=finished
  for one in "${state[@]}"; do
    [[ $one != *" $run_id."* ]] || ((attempt >= ${one##*.})) || attempt=${one##*.}
  done
  for ((number = 0; number < workers; number++)); do
    case ${state[number]:-} in
      "exit 0 $run_id.$attempt") ;;
      "running $run_id.$attempt") verdict=running ;;
      *)
        verdict=''
        break
        ;;
    esac
  done
  if [[ -z $verdict && " ${state[*]}" == *" running "* ]]; then
    say "another run is going on there; it saves and stops first"
  fi
}

# Starts the next attempt on every worker, where what else runs saves and stops first. A worker that has begun it does
# nothing when it is told again.
start_run() {
  local try
  attempt=$((attempt + 1))
  say "starting ${arguments[1]} on the $workers workers ($commit, attempt $attempt)"
  for ((try = 1; ; try++)); do
    ! on_worker all '' start "$run_id.$attempt" "${arguments[@]}" || return 0
    say "gcloud: $(said); once more"
    look
    if [[ $node != READY ]]; then
      connect
      try=0
    fi
    ((try <= retries)) || fail "not every worker of $name can be reached though it is READY and costs: $(said)"
    pause
  done
}

# The end of a worker's log, to show why.
explain() {
  say "$1 $verdict; the end of the log of worker $culprit:"
  ! on_worker "$culprit" '' last || say "$answer"
  say "more: $again --logs $culprit"
}

# newest_checkpoint MEMBER: prints the step of the last one that is whole, nothing where there is none.
newest_checkpoint() {
  gc '' storage ls "$root/$1/checkpoints/" || return 0
  sed -n 's|.*/\([0-9]\{1,\}\)/$|\1|p' <<<"$answer" | sort -n | tail -n 1
}

# train MEMBER: to its end; sets `verdict` to finished, refused, diverged or failed.
train() {
  local failures=0 reached='' step
  describe_run "$1"
  find_attempt
  [[ -n $verdict ]] || start_run
  while :; do
    [[ $verdict == finished ]] || watch "$run_id.$attempt"
    case $verdict in
      finished)
        mark_done "$1"
        say "$1 is done"
        return
        ;;
      halted)
        say "stopped by --stop. next: $command_line   (goes on from there)"
        exit 75
        ;;
      taken) fail "somebody else has started ${state[culprit]##* } on $name; this launcher ends and leaves it alone" ;;
      saved) say "$1 was stopped and has saved; it goes on" ;;
      lost)
        say "the TPU is lost ($request, $node); $1 goes on from its last checkpoint on the next one"
        connect
        ;;
      *)
        explain "$1"
        # Bad input stays bad, and the numbers that are not finite come again from the same checkpoint.
        step=$(newest_checkpoint "$1")
        [[ -z $step || $step == "$reached" ]] || failures=0 reached=$step # a long run may lose many hosts on its way
        if [[ $verdict == refused || $verdict == diverged ]] || ((++failures > retries)); then
          on_worker all '' stop || say "warning: not every worker could be told to stop: $(said)"
          return
        fi
        ;;
    esac
    pause
    # Somebody may have said --stop meanwhile, or started another run.
    listen idle
    judge "$run_id.$attempt"
    [[ $verdict == halted || $verdict == taken ]] || start_run
  done
}
