"""What would stop launch/tpu_pod.sh, found while there is no TPU to pay for.

The launcher's dry run says what it would make and run; then gcloud, git and pip are asked about each part of that.
"""

from __future__ import annotations

import platform
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import trm_jax
from trm_jax.cli.health.check import Check
from trm_jax.cli.health.cloud import cloud
from trm_jax.cli.health.experiment import GENERATED, HUB_CLIENT, Puzzles, fits, puzzles_of
from trm_jax.cli.health.request import Request, understand
from trm_jax.cli.health.shell import Shell
from trm_jax.errors import InputError

if TYPE_CHECKING:
    from trm_jax.cli.health.experiment import Experiments

LAUNCHER, REQUIREMENTS = "launch/tpu_pod.sh", "requirements-tpu.txt"
HUB = "https://huggingface.co"  # where the workers look, whatever this machine is told
HUB_TIMEOUT_S, PIP_TIMEOUT_S = 10, 300.0
PROGRAMS = {
    "gcloud": "install it: https://cloud.google.com/sdk/docs/install",
    "git": "install git",
    "ssh": "install OpenSSH's client",
    "scp": "install OpenSSH's client",
    "ssh-keygen": "install OpenSSH's client",
}


def checkout() -> Path:
    return Path(trm_jax.__file__).resolve().parents[1]


def examine_pod(arguments: Sequence[str], shell: Shell, repository: Path) -> Iterator[Check]:
    """All findings about what `launch/tpu_pod.sh ARGUMENT...` in `repository` would need, the cheap ones first."""
    from trm_jax.configs import registry, resolve

    request = None
    for check in launcher(arguments, shell, repository):
        if isinstance(check, Request):
            request = check
        else:
            yield check
    yield from programs(shell)
    yield from key(shell)
    if request:
        yield from code(request, arguments, shell, repository)
        configs = {}
        for name, settings in request.runs.items():
            try:
                configs[name] = resolve.override(registry.get(name), resolve.parse_assignments(settings))
            except InputError as error:
                yield Check(f"fit of {name}", "fail", str(error), f"trm show {name}")
        yield from fitness(request, list(configs.items()))
        yield from puzzles(list(configs.items()), request, shell, repository)
    yield from requirements(shell, repository)
    if shell.rehearsal or shell.has("gcloud"):
        yield from cloud(request, shell)


def launcher(arguments: Sequence[str], shell: Shell, repository: Path) -> Iterator[Check | Request]:
    """Its dry run, which asks nobody; what is not committed has a check of its own."""
    if not (repository / LAUNCHER).is_file():
        remedy = "work in a checkout of the project, which has the launchers"
        yield Check("launcher", "fail", f"there is no {LAUNCHER} in {repository}", remedy)
        return
    # The Python that it asks for the experiments is this one, unless it is told otherwise.
    told = "" if "TRM_PYTHON" in shell.environ else f"TRM_PYTHON={sys.executable}"
    command = [*filter(None, ["env", told]), "bash", str(repository / LAUNCHER), "--dry-run", "--dirty", *arguments]
    shell.said.append(shlex.join(command))
    done = shell.run(*command)
    if done.code:
        reason = next((line for line in done.err.splitlines() if line.startswith("error: ")), done.reason)
        detail, _, remedy = reason.removeprefix("error: ").partition("; ")
        yield Check("launcher", "fail", detail, remedy or f"{LAUNCHER} --help")
        return
    request = understand(done.out)
    where = f"{request.type} in {request.zone}{', spot' * request.spot}"
    yield Check("launcher", "ok", f"{len(request.runs)} runs on a {where}, into {request.bucket}")
    for line in done.err.splitlines():
        if line.startswith("note: "):
            yield Check("launcher", "warn", line.removeprefix("note: "), "leave out the override that makes it so")
    yield request


def programs(shell: Shell) -> Iterator[Check]:
    missing = [name for name in PROGRAMS if not shell.has(name)]
    for name in missing:
        yield Check(name, "fail", "the launcher needs it and it is not installed", PROGRAMS[name])
    if not missing:
        yield Check("programs", "ok", ", ".join(PROGRAMS))


def key(shell: Shell) -> Iterator[Check]:
    """gcloud's ssh key: several workers are reached at once only with one that asks for no passphrase."""
    file = Path(shell.environ.get("HOME", "~")).expanduser() / ".ssh" / "google_compute_engine"
    if not file.is_file():
        remedy = f"ssh-keygen -t rsa -N '' -f {shlex.quote(str(file))}"
        yield Check("ssh key", "warn", f"there is no {file} yet; gcloud makes it at the first connection", remedy)
    elif shell.ask("ssh-keygen", "-y", "-P", "", "-f", str(file)).code == 0:
        yield Check("ssh key", "ok", f"{file} asks for no passphrase")
    elif shell.ask("ssh-add", "-T", f"{file}.pub").code == 0:
        yield Check("ssh key", "ok", f"{file} is known to the ssh agent")
    else:
        detail = f"{file} cannot be read without a passphrase, which nobody is there to type"
        yield Check("ssh key", "fail", detail, f"ssh-add {shlex.quote(str(file))}")


def code(request: Request, arguments: Sequence[str], shell: Shell, repository: Path) -> Iterator[Check]:
    """Whether what is sent is a commit."""
    done = shell.run("git", "-C", str(repository), "status", "--porcelain", "--", *request.shipped)
    changed = [line.split(maxsplit=1)[1] for line in done.out.splitlines()] if not done.code else []
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if done.code:
        yield Check("code", "fail", done.reason, f"git -C {shlex.quote(str(repository))} status")
    elif changed and "--dirty" not in own:
        detail = f"{changed[0]}{f' and {len(changed) - 1} more' * (len(changed) > 1)} not committed"
        yield Check("code", "fail", detail, "git commit   # or send the files as they are: --dirty")
    else:
        yield Check("code", "ok", "sent as it is, committed or not" if changed else "committed")


def fitness(request: Request, experiments: Experiments) -> Iterator[Check]:
    """Batches and memory of the runs, held against the TPU."""
    from trm_jax.planning import find

    try:
        device = find(request.type)
    except InputError as error:
        yield Check("fit", "warn", str(error), f"trm plan {next(iter(request.runs))} --device ... --memory GB")
        return
    yield from fits(experiments, device)


def puzzles(experiments: Experiments, request: Request, shell: Shell, repository: Path) -> Iterator[Check]:
    """Whether the workers can read the data sets. Of this machine they have only the code that is sent."""
    for name, needed in puzzles_of(experiments):
        if needed.source == "generated":
            yield Check(name, "ok", GENERATED)
        elif needed.source == "hub":
            yield _on_the_hub(name, needed, shell, repository)
        elif needed.where.startswith("gs://"):
            yield _in_a_bucket(name, needed, shell)
        else:
            place = f"{request.root}/puzzles"
            detail = f"data.source={needed.source} and no data.path"
            make = needed.build(place)
            if needed.where:
                detail = f"the workers have no {needed.where}; they read gs://, the hub or what they generate"
                make = f"gcloud storage rsync --recursive {shlex.quote(needed.where)} {place}"
            yield Check(name, "fail", detail, f"{make}   # then data.path={place}")


def _on_the_hub(name: str, needed: Puzzles, shell: Shell, repository: Path) -> Check:
    """Asked without credentials: the workers have none."""
    installed = (re.match(r"[\w.-]*", line)[0] for line in (repository / REQUIREMENTS).read_text().splitlines())
    if HUB_CLIENT not in {package.replace("-", "_") for package in installed}:
        detail = f"{REQUIREMENTS} has no {HUB_CLIENT}, with which the workers read {needed.where}"
        return Check(name, "fail", detail, f"echo {HUB_CLIENT} >> {REQUIREMENTS}   # and commit it")
    for file in needed.files:
        url = f"{HUB}/datasets/{needed.where}/resolve/main/{file}"
        question = ("curl", "--silent", "--show-error", "--fail", "--head", "--max-time", str(HUB_TIMEOUT_S), url)
        done = shell.ask(*question)
        if re.search(r"error: 40[134]\b", done.err):
            remedy = "name a public data set that has it (data.hub_repo), or take data.source=generated"
            return Check(name, "fail", f"the hub gives {needed.where}/{file} to nobody: {done.reason}", remedy)
        if done.code:
            detail = f"the hub cannot be asked for {needed.where}/{file} from here: {done.reason}"
            return Check(name, "warn", detail, shlex.join(question))
    return Check(name, "ok", f"the hub has {needed.where}, and {REQUIREMENTS} {HUB_CLIENT}")


def _in_a_bucket(name: str, needed: Puzzles, shell: Shell) -> Check:
    folder = needed.where.rstrip("/")
    for file in needed.files:
        question = ("gcloud", "storage", "ls", f"{folder}/{file}")
        done = shell.ask(*question)
        if done.code and ("matched no objects" in done.err or "404" in done.err):
            return Check(name, "fail", f"{folder} has no {file}", needed.build(folder))
        if done.code:
            return Check(name, "warn", f"gcloud does not tell of {folder}/{file}: {done.reason}", shlex.join(question))
    return Check(name, "ok", f"{folder} has {' and '.join(needed.files)}")


def requirements(shell: Shell, repository: Path) -> Iterator[Check]:
    """Whether pip finds a set of packages for a worker; only a machine like a worker can tell."""
    file = repository / REQUIREMENTS
    python = shell.environ.get("TRM_PYTHON", sys.executable)
    command = [python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "-r", str(file)]
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        detail = "only Linux on x86-64 can tell what a worker would install"
        yield Check("requirements", "warn", detail, f"pip install --dry-run -r {REQUIREMENTS}   # on such a machine")
        return
    done = shell.ask(*command, timeout_s=PIP_TIMEOUT_S)
    if done.code == 0:
        yield Check("requirements", "ok", f"pip finds all of {REQUIREMENTS}")
    else:
        status = "warn" if done.code == 124 else "fail"
        yield Check("requirements", status, f"{REQUIREMENTS}: {done.reason}", shlex.join(command))
