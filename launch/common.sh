# shellcheck shell=bash
# What the launchers share: messages, quoting, the Python to use, the experiments a word stands for. To be sourced.
# shellcheck disable=SC2034  # what is set here is used there

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: this needs bash 4.4 or newer and runs under $BASH_VERSION (on macOS: brew install bash)" >&2
  exit 2
fi

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${TRM_PYTHON:-$repository/.venv/bin/python}
[[ -n ${TRM_PYTHON:-} || -x $python ]] || python=python3
dry_run=0
word='' settings=() members=() left_out=()

# To the person who watches; a dry run has only commands to tell.
say() { ((dry_run)) || printf '%s\n' "$*" >&2; }

# Exit codes are those of trm: 1 it did not work, 2 bad input (the same command again would not help either).
fail() {
  printf '%s\n' "error: $*" >&2
  exit 1
}

refuse() {
  printf '%s\n' "error: $*" >&2
  exit 2
}

# The comment at the top of a script is its help.
help() {
  sed -n '2,/^$/s/^# \{0,1\}//p' "$1"
  exit 0
}

# One word for one argument in any POSIX shell, newlines included (what printf %q makes of those, only bash reads).
quoted() {
  local LC_ALL=C word text='' quote="'" escaped="'\\''"
  for word in "$@"; do
    if [[ $word =~ ^[A-Za-z0-9_@%+=:,./-]+$ ]]; then
      text+=" $word"
    else
      text+=" '${word//$quote/$escaped}'"
    fi
  done
  printf '%s' "${text# }"
}

# Run a command; a dry run prints it.
run() {
  if ((dry_run)); then
    printf '%s\n' "$(quoted "$@")"
  else
    "$@"
  fi
}

# need_value "$@": an option without its value is an error; so is an empty one, as an unset variable leaves it.
need_value() { [[ -n ${2:-} ]] || refuse "$1 wants a value; see --help"; }

take_word() {
  [[ $1 != -* ]] || refuse "unknown option $1; see --help"
  [[ -z $word ]] || refuse "$word and $1: give one name, group or pattern (quote patterns: 'exp0*')"
  word=$1
}

take_overrides() {
  local override
  for override in "$@"; do
    [[ $override == [A-Za-z]*=* ]] || refuse "$override after -- is not SECTION.NAME=VALUE"
  done
  ((!$#)) || settings=(--set "$@")
}

# End as that command; a dry run prints it.
hand_over() {
  if ((dry_run)); then
    run "$@"
  else
    rm -rf "$scratch"
    exec "$@"
  fi
}

# Sets `trm` to the command that runs `trm ARGUMENT...`.
set_trm() { trm=(env "PYTHONPATH=$repository${PYTHONPATH:+:$PYTHONPATH}" "$python" -m trm_jax "$@"); }

# Sets `members` to the experiments that `word` stands for, in the order of a sweep, and `left_out` to those that the
# overrides make impossible; refuses overrides that none takes.
find_members() {
  local listed code=0
  [[ -n $word ]] || refuse "name an experiment or a group (trm list shows them); see --help"
  set_trm list "$word" --names "${settings[@]}"
  listed=$("${trm[@]}" 2>"$scratch/said") || code=$?
  if ((code == 2)); then
    cat "$scratch/said" >&2
    exit 2
  elif ((code)); then
    refuse "$python cannot list the experiments ($(tail -n 1 "$scratch/said")); make install," \
      "or name a Python that has trm_jax: TRM_PYTHON=..."
  fi
  cat "$scratch/said" >&2
  mapfile -t members <<<"$listed"
  mapfile -t left_out < <(sed -n 's/^note: \([^ ]*\) is left out.*/\1/p' "$scratch/said")
}

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
