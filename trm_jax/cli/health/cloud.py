"""What gcloud knows of a request for a TPU: accounts, permissions, quotas, the bucket."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from trm_jax.cli.health.check import Check
from trm_jax.cli.health.grants import BUCKET, OBJECTS, grant, missing
from trm_jax.cli.health.request import Request
from trm_jax.cli.health.shell import Answer, Shell

API = "tpu.googleapis.com"
PROBE = ".trm_doctor"  # an object that is written and deleted
# Quotas are named as TPUV4sPreemptiblePodPerProjectPerRegionForTPUAPI; what stands for a type in them, and for spot.
_QUOTAS = {"v4": "V4", "v5litepod": "Litepod", "v5p": "V5P", "v6e": "V6E"}
_OTHER_QUOTAS = ("Reserved", "Serving")


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


def _bucket(request: Request, project: str, number: str, account: str, shell: Shell) -> Iterator[Check]:
    """Whether it is there, lies beside the TPU, and takes an object, from here and from the TPU."""
    bucket, user = request.root, f"user:{account}"
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
    bucket = request.root
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
