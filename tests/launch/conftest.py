"""The launchers in a checkout of their own, against a cloud of folders and programs that stand in for Python."""

import ast
import marshal
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PATIENCE_S = 240.0  # a busy machine

# On the machine of the launcher: answers `trm list WORD --names --set ...` from CLOUD/groups, records anything else.
OPERATOR_PYTHON = """#!/bin/bash
[[ $1 != -c ]] || exit 0
if [[ $3 != list ]]; then
  printf '%s\\0' "${JAX_PLATFORMS:-}" "${CUDA_DEVICE_ORDER:-} ${CUDA_VISIBLE_DEVICES:-}" "${@:3}" >"$CLOUD/ran"
  exit "$(cat "$CLOUD/code" 2>/dev/null || echo 0)"
fi
cat "$CLOUD/notes" >&2 2>/dev/null
[[ $5 == --names ]] && cat "$CLOUD/groups/$4" 2>/dev/null || { echo "error: no experiment $4" >&2; exit 2; }
"""

# On a worker: makes environments in no time, and trains as CLOUD/plans/NAME says: line K for attempt K (0 when there
# is none), word W of it for worker W: an exit code, CODE@STEP (after a checkpoint there), `wait` for SIGTERM (then 75),
# `save` like that in real Python, which hears Ctrl-C too, or `die` with all that watches it.
WORKER_PYTHON = """#!/bin/bash
case "$1 $2" in
  "-c "*) exit "$(cat "$CLOUD/old_python" 2>/dev/null || echo 0)" ;;
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && basename "$0" >"$3/of" ;;
  "-m uv") mkdir -p "${@: -1}/bin" && cp "$0" "${@: -1}/bin/python" && echo "$@" >>"$HOME/installed" ;;
  "-m pip") echo "$@" >>"$HOME/installed" ;;
  "-m trm_jax")
    name=$4
    echo "$TRM_COMMIT" >>"$CLOUD/starts/$name.$WORKER"
    attempt=$(wc -l <"$CLOUD/starts/$name.$WORKER")
    printf '%s\\0' "$@" >"$CLOUD/starts/$name.$WORKER.argv"
    read -ra plan < <(sed -n "${attempt}p" "$CLOUD/plans/$name" 2>/dev/null)
    case ${plan[WORKER]:-0} in
      wait)
        trap 'exit 75' TERM
        while [[ ! -e $CLOUD/end ]]; do sleep 0.02; done ;;
      save) exec "$CLOUD/tools/saving" "$@" ;;
      *@*)
        mkdir -p "$CLOUD/bucket/runs/$name/checkpoints/"{"${plan[WORKER]#*@}",900.orbax-checkpoint-tmp}
        exit "${plan[WORKER]%@*}" ;;
      die) kill -9 $PPID ;;
      *) echo "error: code ${plan[WORKER]:-0}"; exit "${plan[WORKER]:-0}" ;;
    esac ;;
esac
"""

# gcloud; a call that has the text of CLOUD/hold in it waits until that file is gone.
GCLOUD = f"""#!/bin/sh
if [ -e "$CLOUD/hold" ]; then
  case "$*" in *"$(cat "$CLOUD/hold")"*) while [ -e "$CLOUD/hold" ]; do touch "$CLOUD/held"; sleep 0.02; done ;; esac
fi
exec {shlex.quote(sys.executable)} -I -S {HERE / "cloud.py"} "$@"
"""

SAVING = f"""#!{sys.executable} -IS
import os, signal, sys, time
def save(number, frame):
    time.sleep(0.2)
    sys.exit(75)
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, save)
open(os.path.expandvars("$CLOUD/ready.$WORKER"), "w").close()
signal.pause()
"""

# The machine of a worker is gone, whatever ran there.
POWER_OFF = """#!/bin/bash
for pane in $(tmux -L trm list-panes -a -F '#{pane_pid}' 2>/dev/null); do kill -KILL -- "-$pane"; done
tmux -L trm kill-server 2>/dev/null
"""


@dataclass
class Ended:
    code: int
    out: str
    err: str


class Pod:
    """A launcher's surroundings; `folder` is what cloud.py calls CLOUD."""

    def __init__(self, folder: Path, repository: Path):
        self.folder, self.repository = folder, repository
        self._started: list[subprocess.Popen] = []
        for name in ("bin", "tools", "groups", "plans", "starts", "operator"):
            (folder / name).mkdir()
        self.program("bin/gcloud", GCLOUD)
        self.program("bin/python", OPERATOR_PYTHON)
        for name in ("python3", "python3.11", "python3.12", "python3.13"):
            self.program(f"tools/{name}", WORKER_PYTHON)
        self.program("tools/saving", SAVING)
        self.program("tools/power_off", POWER_OFF)
        self.program("tools/curl", '#!/bin/sh\necho "$WORKER"\n')
        self.program("tools/sudo", "#!/bin/sh\nexit 1\n")
        self.environ = {
            "PATH": f"{folder / 'bin'}:/usr/bin:/bin",
            "HOME": str(folder / "operator"),
            "TMPDIR": str(folder / "operator"),
            "CLOUD": str(folder),
            "TRM_PYTHON": str(folder / "bin/python"),
            "TRM_BUCKET": "gs://mine/runs",
            "TRM_POLL_S": "0.02",
            "TRM_GRACE_S": "20",
            "TRM_TOLERANCE": "3",
        }
        self.group("one", "alpha")
        self.cloud(
            request=[None],
            node=[None],
            created=[[["ACTIVE"], ["READY"]]],
            workers=2,
            type="v4-64",
            bucket="mine",
            faults={},
            count={},
            reason="",
            account="me@example.com",
            project="science",
            apis=["tpu.googleapis.com"],
            offers={"us-central2-b": ["v4-64", "tpu-ubuntu2204-base"]},
            location="US-CENTRAL2",
            quotas=[],
        )

    def program(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        path.chmod(0o755)

    def group(self, word: str, *names: str) -> None:
        (self.folder / "groups" / word).write_text("".join(f"{name}\n" for name in names))

    def plan(self, name: str, *attempts: str) -> None:
        """What the workers of each attempt do, for example "0 0" (see WORKER_PYTHON)."""
        (self.folder / "plans" / name).write_text("".join(f"{attempt}\n" for attempt in attempts))

    def cloud(self, **changes) -> None:
        """How the cloud stands (see cloud.py); `faults` by what is called for which time: {"state 2": "preempt"}."""
        path = self.folder / "cloud"
        path.write_bytes(marshal.dumps((marshal.loads(path.read_bytes()) if path.exists() else {}) | changes))

    def start(self, *argv: str, script: str = "tpu_pod.sh", **environ: str) -> subprocess.Popen:
        # As from a terminal: a shell cannot trap what was ignored when it was started, as SIGINT is in the background.
        command = ["/usr/bin/env", "--default-signal=INT", "bash", str(self.repository / "launch" / script), *argv]
        process = subprocess.Popen(
            command,
            env=self.environ | environ,
            cwd=self.folder / "operator",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        return process

    def end(self, process: subprocess.Popen) -> Ended:
        out, err = process.communicate(timeout=PATIENCE_S)
        return Ended(process.returncode, out, err)

    def launch(self, *argv: str, script: str = "tpu_pod.sh", **environ: str) -> Ended:
        return self.end(self.start(*argv, script=script, **environ))

    def calls(self) -> list[list[str]]:
        path = self.folder / "calls"
        return [ast.literal_eval(line) for line in path.read_text().splitlines()] if path.exists() else []

    def count(self, verb: str) -> int:
        return marshal.loads((self.folder / "cloud").read_bytes())["count"].get(verb, 0)

    def starts(self, name: str, worker: int = 0) -> int:
        """How often a run was started on a worker."""
        path = self.folder / "starts" / f"{name}.{worker}"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def argv(self, name: str, worker: int = 0) -> list[str]:
        """What the Python of a worker was last given to train `name`."""
        return (self.folder / "starts" / f"{name}.{worker}.argv").read_bytes().decode().split("\0")[:-1]

    def marks(self) -> list[str]:
        """The experiments that are marked as done in the bucket."""
        return sorted(path.parent.name for path in (self.folder / "bucket").glob("runs/*/done-*.txt"))

    def held(self, argv: tuple[str, ...], text: str) -> subprocess.Popen:
        """A launcher whose gcloud waits in the call that has `text` in it, until `release`."""
        (self.folder / "hold").write_text(text)
        process = self.start(*argv)
        self.until((self.folder / "held").exists)
        return process

    def release(self) -> None:
        (self.folder / "hold").unlink()

    def elsewhere(self) -> dict[str, str]:
        """What makes a launcher believe that it is on another machine."""
        (self.folder / "elsewhere").mkdir(exist_ok=True)
        return {"TMPDIR": str(self.folder / "elsewhere")}

    def tmux(self, worker: int, *argv: str) -> None:
        """Somebody at the session of a worker."""
        environ = {"TMUX_TMPDIR": str(self.folder / f"t{worker}"), "PATH": "/usr/bin:/bin"}
        subprocess.run(["tmux", "-L", "trm", *argv], env=environ, check=True)

    def exits(self) -> list[list[str]]:
        """By worker, the exit codes of its runs."""
        runs = (self.folder / f"worker{worker}/trm/runs" for worker in (0, 1))
        return [[path.read_text().strip() for path in sorted(each.glob("*/exit"))] for each in runs]

    def until(self, condition) -> None:
        limit = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < limit, "it does not come"
            time.sleep(0.01)

    def close(self) -> None:
        for process in self._started:
            with process:  # closes its pipes, also where a test gave up waiting for their end
                process.kill()
        for sockets in self.folder.glob("t[0-9]*"):
            environ = {"TMUX_TMPDIR": str(sockets), "PATH": "/usr/bin:/bin"}
            subprocess.run(["bash", self.folder / "tools/power_off"], env=environ, check=False)


def commit(repository: Path) -> None:
    who = {f"GIT_{role}": "launcher" for role in ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL")}
    for command in (["add", "-A"], ["commit", "-q", "-m", "as it is"]):
        subprocess.run(["git", "-C", repository, *command], env=os.environ | who, check=True)


@pytest.fixture(scope="session")
def repository(tmp_path_factory) -> Path:
    """A checkout with the launchers and little else; tests do not change it."""
    place = tmp_path_factory.mktemp("repository")
    shutil.copytree(ROOT / "launch", place / "launch")
    shutil.copy(ROOT / "requirements-tpu.txt", place)
    for name in ("trm_jax/__init__.py", "experiments/baseline.py"):
        (place / name).parent.mkdir()
        (place / name).write_text("")
    subprocess.run(["git", "init", "-q", place], check=True)
    commit(place)
    return place


@pytest.fixture
def pod(repository):
    # Not tmp_path: the path of a tmux socket has at most 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="pod"))
    pod = Pod(folder, repository)
    yield pod
    pod.close()
    shutil.rmtree(folder)
