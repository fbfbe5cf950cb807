#!/usr/bin/env bash
# What the launcher asks of one TPU worker, on that worker. One run at a time, in a tmux session.
#
#   worker.sh install             an environment from requirements-tpu.txt; nothing to do when it is there
#   worker.sh start ID ARG...     python -m trm_jax ARG... as run ID, once another has stopped; nothing to do when ID
#                                 was started last
#   worker.sh state               one line: worker NUMBER running|exit CODE|gone|stopped ID, or: worker NUMBER idle
#   worker.sh stop | halt         SIGTERM (it saves), SIGKILL when that does not help; halt: the launcher leaves it so
#   worker.sh last | log          the last lines of its log; or the log as it comes, of this run and of those after it
#   worker.sh trm ARG...          python -m trm_jax ARG... by hand, in the environment of the runs
#
# In ~/trm: src/COMMIT the code, now -> what was installed last, venv-SUM, current (an ID), log -> that of the current
# run, runs/ID/{argv,log,lock,pid,exit,stopped}.

set -euo pipefail

here=$(cd -P "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
home=$HOME/trm
id=$(cat "$home/current" 2>/dev/null || true)
run=$home/runs/$id
METADATA=http://metadata.google.internal/computeMetadata/v1/instance/attributes
session=(tmux -L trm)

fail() {
  echo "error: $(hostname): $*" >&2
  exit 1
}

environment() { echo "$home/venv-$(sha256sum <"$here/requirements-tpu.txt" | cut -c 1-12)"; }

# Asking the candidates, not only looking them up: Debian's python3 comes without ensurepip.
make_environment() {
  local candidate
  for candidate in python3.11 python3.12 python3.13 python3; do # the pinned versions were tested with the first
    if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      "$candidate" -m venv "$1"
      return
    fi
  done
  # The images of TPU VMs have Python 3.10; uv brings its own.
  if ! python3 -m pip install --quiet --user uv || ! python3 -m uv venv --quiet --seed --python 3.11 "$1"; then
    fail "no Python 3.11 or newer, and uv could not bring one: sudo apt-get install python3.11-venv"
  fi
}

install() {
  local venv
  venv=$(environment)
  mkdir -p "$home"
  exec 9>"$home/install.lock"
  flock 9 # a call whose connection broke may still be at it
  command -v tmux >/dev/null || sudo apt-get install -q -y tmux || fail "there is no tmux and apt-get brings none"
  if [[ ! -e $venv/installed ]]; then
    rm -rf "$venv"
    make_environment "$venv"
    "$venv/bin/python" -m pip install --quiet -r "$here/requirements-tpu.txt" || fail "pip install failed"
    touch "$venv/installed"
  fi
  ln -sfn "$here" "$home/now"
}

start() {
  [[ $1 != "$id" ]] || return 0
  stop
  "${session[@]}" kill-session -t trm 2>/dev/null || true
  run=$home/runs/$1
  mkdir -p "$run"
  rm -f "$run/exit" "$run/pid" "$run/stopped"
  printf '%s\0' "${@:2}" >"$run/argv"
  touch "$run/log"
  ln -sfn "$run/log" "$home/log"
  echo "$1" >"$home/current.new"
  mv "$home/current.new" "$home/current"
  "${session[@]}" new-session -d -s trm bash "$here/launch/worker.sh" run
}

# Inside tmux. Ctrl-C there reaches Python by itself, which saves and ends; so it does when the session is closed, of
# which only this script hears.
run() {
  local argv python tee child asked code waited
  mapfile -d '' argv <"$run/argv"
  cd "$here"
  TRM_COMMIT=$(basename "$here")
  export TRM_COMMIT
  exec 9>"$run/lock"
  flock 9
  exec > >(tee -i -a "$run/log") 2>&1
  tee=$!
  echo "$(date -u +%FT%TZ) $id: python -m trm_jax ${argv[*]@Q}"
  python=$(environment)/bin/python
  trap 'asked=1' INT
  # $! is the run once there is one: whoever asks before that ends this here, and there will be none. Nor can a run be
  # asked that has just ended: its exit code is still to be written.
  trap 'asked=1; [[ $! != "$tee" ]] || exit 1; kill -TERM $! 2>/dev/null || true' HUP TERM
  "$python" -m trm_jax "${argv[@]}" &
  child=$!
  echo $child >"$run/pid"
  while
    asked=0 code=0
    wait $child || code=$?
    ((asked)) # then it was the signal that ended the wait
  do :; done
  echo "$(date -u +%FT%TZ) $id: exit code $code"
  exec >/dev/null 2>&1 # the log is whole before the session may be closed, unless a child of Python's holds it open
  for ((waited = 0; waited < 50; waited++)); do
    kill -0 $tee 2>/dev/null || break
    sleep 0.1
  done
  echo $code >"$run/exit.new"
  mv "$run/exit.new" "$run/exit"
}

# A session that was closed leaves behind what still saves, and with it the lock.
alive() { "${session[@]}" has-session -t trm 2>/dev/null || ! flock -n "$run/lock" true; }

number() {
  [[ -s $home/number ]] || curl -sf -m 10 -H 'Metadata-Flavor: Google' "$METADATA/agent-worker-number" >"$home/number"
  cat "$home/number"
}

state() {
  local what=idle
  if [[ -n $id ]]; then
    what="gone $id"
    ! alive || what="running $id"
    [[ ! -e $run/exit ]] || what="exit $(cat "$run/exit") $id" # looked for last: it is written before the session ends
    [[ ! -e $run/stopped ]] || what="stopped $id"
  fi
  echo "worker $(number) $what"
}

stop() {
  local waited asked=0
  for ((waited = 0; waited < ${TRM_STOP_S:-120} * 10; waited++)); do
    if [[ -z $id || -e $run/exit ]] || ! alive; then
      return 0
    fi
    if ((!asked)) && [[ -s $run/pid ]]; then
      kill -TERM "$(cat "$run/pid")" 2>/dev/null || true
      asked=1
    fi
    sleep 0.1
  done
  kill -KILL "$(cat "$run/pid")" 2>/dev/null || true
  "${session[@]}" kill-session -t trm 2>/dev/null || true
}

case ${1:-} in
  install) install ;;
  start) start "${@:2}" ;;
  run) run ;;
  state) state ;;
  stop) stop ;;
  halt)
    [[ -z $id ]] || touch "$run/stopped"
    stop
    ;;
  last) tail -n 5 "$run/log" ;;
  log) exec tail -n 50 -s 0.2 -F "$home/log" ;; # a link is looked at, not watched
  trm)
    cd "$here"
    exec "$(environment)/bin/python" -m trm_jax "${@:2}"
    ;;
  *) fail "worker.sh install|start|state|stop|halt|last|log|trm" ;;
esac
