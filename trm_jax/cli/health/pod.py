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
from typing import TYPE_CHECKING

import trm_jax
from trm_jax.cli.health.check import Check
from trm_jax.cli.health.experiment import GENERATED, HUB_CLIENT, Puzzles, fits, puzzles_of
from trm_jax.cli.health.grants import BUCKET, OBJECTS, grant, missing
from trm_jax.cli.health.shell import Answer, Shell
from trm_jax.errors import InputError

if TYPE_CHECKING:
    from trm_jax.cli.health.experiment import Experiments

LAUNCHER, REQUIREMENTS = "launch/tpu_pod.sh", "requirements-tpu.txt"
API = "tpu.googleapis.com"
PROBE = ".trm_doctor"  # an object that is written and deleted
HUB = "https://huggingface.co"  # where the workers look, whatever this machine is told
HUB_TIMEOUT_S, PIP_TIMEOUT_S = 10, 300.0
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

    bucket: gs://BUCKET/FOLDER of the runs. project: empty for gcloud's own. service_account: as which the TPU's hosts
    act, empty for the project's default.
    """

    type: str
    version: str
    zone: str
    project: str
    spot: bool
    service_account: str
    bucket: str
    runs: dict[str, list[str]]
    shipped: tuple[str, ...]

    @property
    def region(self) -> str:
        return self.zone.rpartition("-")[0]


def understand(printed: str) -> Request:
    """The request behind the commands that the launcher's dry run prints. Raises InputError for one that cannot be."""
    words = shlex.split(printed)
    create = _flags(next(line for line in printed.splitlines() if " queued-resources create " in line))
    kind = create["--accelerator-type"]
    if not re.fullmatch("[a-z0-9]+-[1-9][0-9]*", kind):
        raise InputError(f"--type {kind} is no TPU; write GENERATION-NUMBER, for example v4-64 or v5litepod-16")
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
        type=kind,
        version=create["--runtime-version"],
        zone=create["--zone"],
        project=create.get("--project", ""),
        spot="--spot" in create,
        service_account=create.get("--service-account", ""),
        bucket=folder.rpartition("/")[0],
        runs=runs,
        shipped=tuple(shipped),
    )


def _flags(line: str) -> dict[str, str]:
    """The flags of a command, --NAME=VALUE and --NAME VALUE alike; of one without a value an empty text."""
    found, last = {}, ""
    for word in shlex.split(line):
        if word.startswith("--"):
            last, _, found[last] = word.partition("=")
        elif last and not found[last]:
            found[last] = word
    return found


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
            place = f"{_root(request.bucket)}/puzzles"
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
    flags = ("--format=value(lifecycleState,projectNumber)",)
    done = shell.ask("gcloud", "projects", "describe", project, *flags, presumed="ACTIVE\tPROJECT_NUMBER")
    state, _, number = done.out.partition("\t")
    if done.code or state != "ACTIVE":
        yield Check("project", "fail", f"{project}: {done.reason if done.code else state}", "gcloud projects list")
        return
    yield Check("project", "ok", project)
    yield from _api(project, shell)
    if request:
        yield from _tpu(request, project, account.out, shell)
        yield from _quota(request, project, shell)
        yield from _bucket(request, project, number, account.out, shell)


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


def _root(folder: str) -> str:
    """gs://BUCKET of a folder."""
    return "/".join(folder.split("/")[:3])


def _bucket(request: Request, project: str, number: str, account: str, shell: Shell) -> Iterator[Check]:
    """Whether it is there, lies beside the TPU, and takes an object, from here and from the TPU."""
    bucket, user = _root(request.bucket), f"user:{account}"
    flags = ("--format=value(location)",)
    done = shell.ask("gcloud", "storage", "buckets", "describe", bucket, *flags, presumed=request.region)
    if done.code:
        create = f"gcloud storage buckets create {bucket} --location={request.region} --project={project}"
        known = "403" in done.err or "PERMISSION_DENIED" in done.err
        yield Check("bucket", "fail", f"{bucket}: {done.reason}", grant(bucket, user, BUCKET) if known else create)
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
        detail = f"cannot {'delete from' if wrote.code == 0 else 'write to'} {request.bucket}: {gone.reason}"
        yield Check("bucket access", "fail", detail, grant(bucket, user, OBJECTS))
    else:
        yield Check("bucket access", "ok", f"{request.bucket} takes objects and gives them up again")
    yield _service_account(request, project, number, shell)


def _service_account(request: Request, project: str, number: str, shell: Shell) -> Check:
    """Whether the account as which the TPU's hosts act may use the bucket; the probe was written by another."""
    account = request.service_account or f"{number}-compute@developer.gserviceaccount.com"
    bucket = _root(request.bucket)
    answers = [
        shell.ask("gcloud", *words, "--format=json", presumed="{}")
        for words in (("storage", "buckets", "get-iam-policy", bucket), ("projects", "get-iam-policy", project))
    ]
    policies = [{} if answer.code else json.loads(answer.out) for answer in answers]
    lacking = missing(account, project, *policies)
    remedy = " && ".join(grant(bucket, f"serviceAccount:{account}", role) for role in lacking)
    if not lacking:
        return Check("service account", "ok", f"{account} may use {bucket}")
    for answer in answers:
        if answer.code:
            detail = f"could not look whether {account} may use {bucket}: {answer.reason}"
            return Check("service account", "warn", detail, remedy)
    detail = f"the TPU's hosts act as {account}, which has no {' and no '.join(lacking)} in {bucket}"
    return Check("service account", "warn", detail, remedy)
