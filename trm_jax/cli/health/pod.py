"""What would stop launch/tpu_pod.sh, found while there is no TPU to pay for.

The launcher's dry run says what it would make and run; then gcloud, git and pip are asked about each part of that.
"""

from __future__ import annotations

import json
import platform
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import trm_jax
from trm_jax.cli.health.check import Check
from trm_jax.cli.health.experiment import fits
from trm_jax.cli.health.shell import Answer, Shell
from trm_jax.errors import InputError

LAUNCHER, REQUIREMENTS = "launch/tpu_pod.sh", "requirements-tpu.txt"
API = "tpu.googleapis.com"
PROBE = ".trm_doctor"  # an object that is written and deleted
PIP_TIMEOUT_S = 300.0
PROGRAMS = {
    "gcloud": "install it: https://cloud.google.com/sdk/docs/install",
    "git": "install git",
    "ssh": "install OpenSSH's client",
    "scp": "install OpenSSH's client",
    "ssh-keygen": "install OpenSSH's client",
}
# Quotas are named as TPUV4sPreemptiblePodPerProjectPerRegionForTPUAPI; what stands for a type in them, and for spot.
_QUOTAS = {"v4": "V4", "v5litepod": "Litepod", "v5p": "V5P", "v6e": "V6E"}
_OTHER_QUOTAS = ("Reserved", "Serving")


@dataclass(frozen=True)
class Request:
    """What the launcher would ask for; runs: the settings (KEY=VALUE) of each; shipped: what it sends of the checkout.

    bucket: gs://BUCKET/FOLDER of the runs. project: empty for gcloud's own.
    """

    type: str
    version: str
    zone: str
    project: str
    spot: bool
    bucket: str
    runs: dict[str, list[str]]
    shipped: tuple[str, ...]

    @property
    def region(self) -> str:
        return self.zone.rpartition("-")[0]


def understand(printed: str) -> Request:
    """The request behind the commands that the launcher's dry run prints."""
    words = shlex.split(printed)
    create = _flags(words[words.index("create") :])
    archive = words[words.index("archive") :]
    shipped = archive[next(i for i, word in enumerate(archive) if re.fullmatch("[0-9a-f]{40,}", word)) + 1 :]
    shipped = shipped[: shipped.index("gcloud")]
    runs, folder = {}, ""
    for word in words:
        if word.startswith("--command=") and "worker.sh start " in word:
            train = shlex.split(word.partition("worker.sh start ")[2])[1:]  # ID train NAME --workdir FOLDER ...
            settings = train[train.index("--set") + 1 :] if "--set" in train else []
            runs[train[1]], folder = settings, train[train.index("--workdir") + 1]
    return Request(
        type=create["--accelerator-type"],
        version=create["--runtime-version"],
        zone=create["--zone"],
        project=create.get("--project", ""),
        spot="--spot" in create,
        bucket=folder.rpartition("/")[0],
        runs=runs,
        shipped=tuple(shipped),
    )


def _flags(words: Sequence[str]) -> dict[str, str]:
    """The flags of the first command in `words`."""
    found = {}
    for word in words[2:]:
        if not word.startswith("--"):
            break
        name, _, value = word.partition("=")
        found[name] = value
    return found


def checkout() -> Path:
    return Path(trm_jax.__file__).resolve().parents[1]


def examine_pod(arguments: Sequence[str], shell: Shell, repository: Path) -> Iterator[Check]:
    """All findings about what `launch/tpu_pod.sh ARGUMENT...` in `repository` would need, the cheap ones first."""
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
        yield from experiments(request)
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
    changed = [line[3:] for line in done.out.splitlines()] if not done.code else []
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if done.code:
        yield Check("code", "fail", done.reason, f"git -C {shlex.quote(str(repository))} status")
    elif changed and "--dirty" not in own:
        detail = f"{changed[0]}{f' and {len(changed) - 1} more' * (len(changed) > 1)} not committed"
        yield Check("code", "fail", detail, "git commit   # or send the files as they are: --dirty")
    else:
        yield Check("code", "ok", "sent as it is, committed or not" if changed else "committed")


def experiments(request: Request) -> Iterator[Check]:
    """Names, settings, batches and memory of the runs, held against the TPU."""
    from trm_jax.configs import registry, resolve
    from trm_jax.planning import find

    pages = []
    for name, settings in request.runs.items():
        try:
            pages.append((name, resolve.override(registry.get(name), resolve.parse_assignments(settings))))
        except InputError as error:
            yield Check(f"fit of {name}", "fail", str(error), f"trm show {name}")
    try:
        device = find(request.type.replace("v5litepod-", "v5e-"))
    except InputError as error:
        yield Check("fit", "warn", str(error), f"trm plan {next(iter(request.runs))} --device ... --memory GB")
        return
    yield from fits(pages, device)


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


def cloud(request: Request | None, shell: Shell) -> Iterator[Check]:
    """What gcloud knows: who asks, for which project, whether the TPU may be had there, and the bucket."""
    account = shell.ask(
        "gcloud", "auth", "list", "--filter=status:ACTIVE", "--format=value(account)", presumed="ACCOUNT"
    )
    if account.code or not account.out:
        yield Check("account", "fail", "gcloud is not logged in", "gcloud auth login")
        return
    yield Check("account", "ok", account.out)
    project = request.project if request else ""
    if not project:
        project = shell.ask("gcloud", "config", "get-value", "project", presumed="PROJECT").out
    if not project:
        yield Check("project", "fail", "gcloud has no project", "gcloud config set project PROJECT   # or --project")
        return
    done = shell.ask("gcloud", "projects", "describe", project, "--format=value(lifecycleState)", presumed="ACTIVE")
    if done.code or done.out != "ACTIVE":
        yield Check("project", "fail", f"{project}: {done.reason if done.code else done.out}", "gcloud projects list")
        return
    yield Check("project", "ok", project)
    yield from _api(project, shell)
    if request:
        yield from _tpu(request, project, account.out, shell)
        yield from _quota(request, project, shell)
        yield from _bucket(request, project, account.out, shell)


def _api(project: str, shell: Shell) -> Iterator[Check]:
    flags = ("--enabled", f"--filter=config.name={API}", "--format=value(config.name)", f"--project={project}")
    done = shell.ask("gcloud", "services", "list", *flags, presumed=API)
    enable = f"gcloud services enable {API} --project={project}"
    if done.code:
        yield Check("TPU API", "warn", f"gcloud does not tell whether it is on: {done.reason}", enable)
    elif API not in done.out:
        yield Check("TPU API", "fail", f"{API} is off in {project}", enable)
    else:
        yield Check("TPU API", "ok", f"{API} is on")


def _tpu(request: Request, project: str, account: str, shell: Shell) -> Iterator[Check]:
    """Whether the zone has the type and its software, and whether this account may see requests for them."""
    place = (f"--zone={request.zone}", f"--project={project}")
    tpus = ("gcloud", "compute", "tpus")
    questions = {
        "TPU type": (*tpus, "accelerator-types", "describe", request.type, *place),
        "TPU software": (*tpus, "versions", "describe", request.version, *place),
        "queued resources": (*tpus, "queued-resources", "list", "--limit=1", *place),
    }
    others = {
        "TPU type": f"gcloud compute tpus accelerator-types list {' '.join(place)}   # or another --zone",
        "TPU software": f"gcloud compute tpus versions list {' '.join(place)}   # then --version",
    }
    for name, question in questions.items():
        done = shell.ask(*question)
        if done.code == 0:
            what = {"TPU type": request.type, "TPU software": request.version}.get(name, "they may be listed")
            yield Check(name, "ok", f"{what} in {request.zone}")
        else:
            remedy = _grant(done, project, account) or others.get(name) or shlex.join(question)
            yield Check(name, "fail", done.reason, remedy)


def _grant(done: Answer, project: str, account: str) -> str:
    """The command that gives the permission whose lack gcloud complains of."""
    if "PERMISSION_DENIED" not in done.err and "403" not in done.err:
        return ""
    return f"gcloud projects add-iam-policy-binding {project} --member=user:{account} --role=roles/tpu.admin"


def _quota(request: Request, project: str, shell: Shell) -> Iterator[Check]:
    """What the project may have of this type in this region, where gcloud tells; what is in use it does not tell."""
    kind, _, number = request.type.partition("-")
    flags = (f"--service={API}", f"--project={project}", "--format=json")
    done = shell.ask("gcloud", "beta", "quotas", "info", "list", *flags, presumed="[]")
    page = f"https://console.cloud.google.com/iam-admin/quotas?project={project}   # filter: {API}"
    what = f"{request.type}{', spot,' * request.spot} in {request.zone}"
    try:
        limits = sorted(_limits(json.loads(done.out), _QUOTAS.get(kind, kind), request))
    except (ValueError, TypeError, KeyError, AttributeError):
        limits = []
    if done.code or not limits:
        reason = f": {done.reason}" if done.code else ""
        yield Check("quota", "warn", f"gcloud tells no quota for {what}{reason}", page)
    elif limits[0] == 0:
        yield Check("quota", "fail", f"there is none for {what}", page)
    elif limits[0] < int(number):
        yield Check("quota", "warn", f"it is {limits[0]:g} for {what}, which takes up to {number}", page)
    else:
        yield Check("quota", "ok", f"{'no limit' if limits[0] == float('inf') else f'{limits[0]:g}'} for {what}")


def _limits(infos: list[dict], kind: str, request: Request) -> Iterator[float]:
    """The limits for this type at this place; -1 stands for none."""
    for info in infos:
        name = info["quotaId"]
        if kind not in name or ("Preemptible" in name) != request.spot or any(o in name for o in _OTHER_QUOTAS):
            continue
        for part in info["dimensionsInfos"]:
            if {request.zone, request.region} & set(part.get("applicableLocations", ())):
                value = float(part["details"].get("value", 0))
                yield float("inf") if value < 0 else value


def _bucket(request: Request, project: str, account: str, shell: Shell) -> Iterator[Check]:
    """Whether it is there, lies beside the TPU, and takes an object."""
    bucket = "/".join(request.bucket.split("/")[:3])
    flags = ("--format=value(location)",)
    done = shell.ask("gcloud", "storage", "buckets", "describe", bucket, *flags, presumed=request.region)
    if done.code:
        create = f"gcloud storage buckets create {bucket} --location={request.region} --project={project}"
        allow = f"gcloud storage buckets add-iam-policy-binding {bucket} --member=user:{account}"
        known = "403" in done.err or "PERMISSION_DENIED" in done.err
        remedy = f"{allow} --role=roles/storage.legacyBucketReader" if known else create
        yield Check("bucket", "fail", f"{bucket}: {done.reason}", remedy)
        return
    where = done.out.lower()
    if where == request.region:
        yield Check("bucket", "ok", f"{bucket} lies in {where}, as the TPU does")
    else:
        detail = f"{bucket} lies in {where} and the TPU in {request.region}: slower, and traffic may be charged"
        remedy = f"gcloud storage buckets create gs://OTHER --location={request.region} --project={project}"
        yield Check("bucket", "warn", detail, remedy)
    probe = f"{request.bucket}/{PROBE}"
    wrote = shell.ask("gcloud", "storage", "cp", "-", probe, stdin="may a run be marked as done here?\n")
    gone = shell.ask("gcloud", "storage", "rm", probe) if wrote.code == 0 else wrote
    if gone.code:
        allow = f"gcloud storage buckets add-iam-policy-binding {bucket} --member=user:{account}"
        detail = f"cannot {'delete from' if wrote.code == 0 else 'write to'} {request.bucket}: {gone.reason}"
        yield Check("bucket access", "fail", detail, f"{allow} --role=roles/storage.objectUser")
    else:
        yield Check("bucket access", "ok", f"{request.bucket} takes objects and gives them up again")
