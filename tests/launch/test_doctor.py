"""`trm doctor --pod`: each thing that would stop the launcher is named, with its remedy, and nothing is made."""

import shlex
import shutil
from pathlib import Path

import pytest

from tests.launch.conftest import commit
from trm_jax.cli.health.pod import examine_pod
from trm_jax.cli.health.shell import Shell
from trm_jax.cli.main import main
from trm_jax.errors import InputError

ARGUMENTS = ("exp02a", "--bucket=gs://mine/runs")
QUOTA = "TPUV4sPodPerProjectPerRegionForTPUAPI"
TPU_ACCOUNT = "serviceAccount:42-compute@developer.gserviceaccount.com"
OBJECTS, BUCKET = "roles/storage.objectUser", "roles/storage.legacyBucketReader"


def quota(value: int, name: str = QUOTA, place: str = "us-central2") -> dict:
    """As gcloud tells it, with the numbers as texts."""
    return {"quotaId": name, "dimensionsInfos": [{"applicableLocations": [place], "details": {"value": str(value)}}]}


def policies(bucket: dict[str, str], project: dict[str, str] | None = None) -> dict:
    """Policies as gcloud tells them, of {role: member}."""
    given = {"bucket": bucket, "project": project or {}}
    return {
        place: {"bindings": [{"role": role, "members": [member, "user:a@b.c"]} for role, member in roles.items()]}
        for place, roles in given.items()
    }


@pytest.fixture
def sound(pod):
    """A cloud and a machine on which nothing is wrong."""
    pod.group("exp02a", "baseline", "exp02a_01")
    pod.cloud(quotas=[quota(64)], policies=policies({OBJECTS: TPU_ACCOUNT, BUCKET: TPU_ACCOUNT}))
    for program in ("ssh", "scp", "ssh-keygen", "ssh-add", "curl"):
        pod.program(f"bin/{program}", "#!/bin/sh\nexit 0\n")
    key = pod.folder / "operator" / ".ssh" / "google_compute_engine"
    key.parent.mkdir()
    key.touch()
    return pod


def examine(pod, *arguments: str, repository=None, rehearsal=False):
    """(checks by name, shell)"""
    shell = Shell(pod.environ, rehearsal=rehearsal)
    checks = list(examine_pod(arguments or ARGUMENTS, shell, repository or pod.repository))
    assert all(bool(check.remedy) == (check.status != "ok") for check in checks)
    assert len({check.name for check in checks}) == len(checks)
    return {check.name: check for check in checks}, shell


def troubles(pod, *arguments: str, **how) -> dict[str, tuple[str, str, str]]:
    checks, _ = examine(pod, *arguments, **how)
    return {name: (c.status, c.detail, c.remedy) for name, c in checks.items() if c.status != "ok"}


def test_nothing_is_wrong_and_nothing_is_left_behind(sound):
    checks, _ = examine(sound)
    assert {check.status for check in checks.values()} == {"ok"}, checks
    assert checks["launcher"].detail == "2 runs on a v4-64 in us-central2-b, into gs://mine/runs"
    assert checks["fit"].detail.startswith("baseline, exp02a_01: at most ")
    assert checks["quota"].detail == "64 for v4-64 in us-central2-b"
    assert checks["puzzles of baseline, exp02a_01"].detail.startswith("the hub has sapientinc/sudoku-extreme")
    assert not any(word in call for call in sound.calls() for word in ("create", "delete", "ssh"))
    assert not [path for path in (sound.folder / "bucket").rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    "cloud, name, status, remedy",
    [
        ({"account": ""}, "account", "fail", "gcloud auth login"),
        ({"project": ""}, "project", "fail", "gcloud config set project PROJECT"),
        ({"faults": {"projects 1": "ERROR: denied"}}, "project", "fail", "gcloud projects list"),
        ({"apis": ["other"]}, "TPU API", "fail", "gcloud services enable tpu.googleapis.com --project=science"),
        ({"faults": {"services 1": "ERROR: denied"}}, "TPU API", "warn", "gcloud services enable tpu.googleapis.com"),
        ({"offers": {"us-central2-b": ["tpu-ubuntu2204-base"]}}, "TPU type", "fail", "accelerator-types list"),
        ({"offers": {"us-central2-b": ["v4-64"]}}, "TPU software", "fail", "gcloud compute tpus versions list"),
        ({"faults": {"list 1": "ERROR: PERMISSION_DENIED: x"}}, "queued resources", "fail",
         "add-iam-policy-binding science --member=user:me@example.com --role=roles/tpu.admin"),
        ({"quotas": [quota(0)]}, "quota", "fail", "https://console.cloud.google.com/iam-admin/quotas?project=science"),
        ({"quotas": [quota(32)]}, "quota", "warn", "https://console.cloud.google.com/iam-admin/quotas"),
        ({"quotas": [quota(64, place="us-east1")]}, "quota", "warn", "https://console.cloud.google.com"),
        ({"quotas": [quota(64, "TPUV5sLitepodPerProjectPerRegionForTPUAPI")]}, "quota", "warn", "https://console"),
        ({"quotas": [quota(64, "TPUV4sPreemptiblePodPerProjectPerRegionForTPUAPI")]}, "quota", "warn", "https://"),
        ({"faults": {"quotas 1": "ERROR: Invalid choice: 'quotas'"}}, "quota", "warn", "https://console"),
        ({"location": "EUROPE-WEST4"}, "bucket", "warn", "buckets create gs://OTHER --location=us-central2"),
        ({"bucket": "yours"}, "bucket", "fail", "gcloud storage buckets create gs://mine --location=us-central2"),
        ({"faults": {"buckets 1": "ERROR: 403 forbidden"}}, "bucket", "fail", "roles/storage.legacyBucketReader"),
        ({"faults": {"storage 1": "ERROR: 403 forbidden"}}, "bucket access", "fail", "--role=roles/storage.objectUser"),
        ({"faults": {"storage 2": "ERROR: 403 forbidden"}}, "bucket access", "fail", "--role=roles/storage.objectUser"),
        ({"policies": policies({OBJECTS: TPU_ACCOUNT})}, "service account", "warn",
         f"gcloud storage buckets add-iam-policy-binding gs://mine --member={TPU_ACCOUNT} --role={BUCKET}"),
        ({"policies": policies({}, {OBJECTS: "user:me@example.com"})}, "service account", "warn",
         f"--member={TPU_ACCOUNT} --role={OBJECTS} && gcloud storage"),
        ({"policies": policies({}), "faults": {"buckets 2": "ERROR: 403 forbidden"}}, "service account", "warn",
         f"--role={BUCKET}"),
    ],
)  # fmt: skip
def test_what_google_would_refuse(sound, cloud, name, status, remedy):
    sound.cloud(**cloud)
    found = troubles(sound)
    assert list(found) == [name]
    assert found[name][0] == status and remedy in found[name][2], found


@pytest.mark.parametrize(
    "given",
    [
        policies({}, {"roles/storage.admin": TPU_ACCOUNT}),
        policies({BUCKET: "allUsers"}, {"roles/storage.objectAdmin": TPU_ACCOUNT}),
        policies({"roles/storage.legacyBucketOwner": "projectEditor:science"}, {"roles/editor": TPU_ACCOUNT}),
    ],
)
def test_other_roles_that_are_enough(sound, given):
    sound.cloud(policies=given)
    assert not troubles(sound)


def test_roles_that_are_not_what_they_seem(sound):
    """An editor of a project whose bucket gives editors nothing, what is for editors only, a role under a condition."""
    for bucket, project in (({}, "roles/editor"), ({"roles/storage.admin": "projectEditor:science"}, "roles/viewer")):
        sound.cloud(policies=policies(bucket, {project: TPU_ACCOUNT}))
        assert list(troubles(sound)) == ["service account"]
    given = policies({OBJECTS: TPU_ACCOUNT, BUCKET: TPU_ACCOUNT})
    given["bucket"]["bindings"][0]["condition"] = {"expression": "false"}
    sound.cloud(policies=given)
    status, detail, _ = troubles(sound)["service account"]
    assert f"has no {OBJECTS} in gs://mine" in detail and BUCKET not in detail


@pytest.mark.parametrize("flags", ["--network=n --service-account=tpu@x.y", "--service-account tpu@x.y --reserved"])
def test_a_service_account_of_ones_own(sound, flags):
    sound.environ["TRM_CREATE_FLAGS"] = flags
    assert "--member=serviceAccount:tpu@x.y" in troubles(sound)["service account"][2]
    sound.cloud(policies=policies({"roles/storage.admin": "serviceAccount:tpu@x.y"}))
    assert not troubles(sound)


def test_puzzles_that_the_hub_does_not_give(sound):
    name = "puzzles of baseline, exp02a_01"
    complain = "#!/bin/sh\necho 'curl: ({}) {}' >&2\nexit {}\n"
    sound.program("bin/curl", complain.format(22, "The requested URL returned error: 404", 22))
    status, detail, remedy = troubles(sound)[name]
    assert status == "fail" and "gives sapientinc/sudoku-extreme/train.csv to nobody" in detail
    sound.program("bin/curl", complain.format(6, "Could not resolve host: huggingface.co", 6))
    status, detail, remedy = troubles(sound)[name]
    assert status == "warn" and remedy.endswith(
        "huggingface.co/datasets/sapientinc/sudoku-extreme/resolve/main/train.csv"
    )


def test_workers_without_the_client_of_the_hub(sound, tmp_path):
    checkout = tmp_path / "checkout"
    shutil.copytree(sound.repository, checkout)
    file = checkout / "requirements-tpu.txt"
    file.write_text("\n".join(line for line in file.read_text().splitlines() if not line.startswith("huggingface")))
    commit(checkout)
    status, _, remedy = troubles(sound, repository=checkout)["puzzles of baseline, exp02a_01"]
    assert (status, remedy) == ("fail", "echo huggingface_hub >> requirements-tpu.txt   # and commit it")
    assert not troubles(sound, *ARGUMENTS, "--", "data.source=generated", repository=checkout)


def test_puzzles_in_files(sound):
    """This machine has those of its own; the workers have those of a bucket."""
    name, sound_csv = "puzzles of baseline, exp02a_01", (*ARGUMENTS, "--", "data.source=csv")
    assert "--output-dir gs://mine/puzzles   # then data.path=gs://mine/puzzles" in troubles(sound, *sound_csv)[name][2]
    status, detail, remedy = troubles(sound, *sound_csv, f"data.path={sound.folder}")[name]
    assert status == "fail" and f"the workers have no {sound.folder}" in detail
    assert remedy.startswith(f"gcloud storage rsync --recursive {sound.folder} gs://mine/puzzles")
    bucket = (*sound_csv, "data.path=gs://mine/there")
    remedy = "trm data sudoku build --format csv --output-dir gs://mine/there"
    assert troubles(sound, *bucket)[name] == ("fail", "gs://mine/there has no train.csv", remedy)
    (sound.folder / "bucket" / "there").mkdir(parents=True)
    for file in ("train.csv", "test.csv"):
        (sound.folder / "bucket" / "there" / file).touch()
    assert not troubles(sound, *bucket)
    sound.cloud(count={}, faults={"storage 1": "ERROR: 403 forbidden"})
    assert troubles(sound, *bucket)[name][0] == "warn"


def test_the_settings_of_the_launcher_stand_in_variables_too(sound):
    """A bucket with a folder, and spot, which has quotas of its own."""
    sound.environ |= {"TRM_SPOT": "1", "TRM_BUCKET": "mine/trm/seed1/"}
    checks, shell = examine(sound, "exp02a")
    assert checks["launcher"].detail == "2 runs on a v4-64 in us-central2-b, spot, into gs://mine/trm/seed1"
    assert checks["quota"].status == "warn" and "v4-64, spot, in us-central2-b" in checks["quota"].detail
    assert checks["bucket"].detail.startswith("gs://mine lies")
    assert checks["bucket access"].detail.startswith("gs://mine/trm/seed1 takes")


def test_no_limit_is_enough_and_spot_has_quotas_of_its_own(sound):
    sound.cloud(quotas=[quota(0), quota(-1, "TPUV4sPreemptiblePodPerProjectPerZoneForTPUAPI", "us-central2-b")])
    checks, _ = examine(sound, *ARGUMENTS, "--spot")
    assert checks["quota"].detail == "no limit for v4-64, spot, in us-central2-b"


@pytest.mark.parametrize(
    "arguments, detail",
    [
        (("exp02a",), "name a bucket for the workdirs"),
        (("--bucket=gs://mine",), "name an experiment or a group"),
        (("exp99", "--bucket=gs://mine"), "no experiment exp99"),
        ((*ARGUMENTS, "--type=v6e-16"), "--type v6e-16 wants --zone"),
    ],
)
def test_what_the_launcher_would_refuse(sound, arguments, detail):
    sound.environ.pop("TRM_BUCKET")
    found = troubles(sound, *arguments)
    assert list(found) == ["launcher"] and detail in found["launcher"][1]


@pytest.mark.parametrize("kind", ["v4-abc", "v4-064"])
def test_types_that_are_none(sound, kind):
    sound.environ["TRM_TPU_TYPE"] = kind
    with pytest.raises(InputError, match=f"--type {kind} is no TPU"):
        examine(sound, "exp02a")


def test_a_checkout_without_launchers(sound, tmp_path):
    found = troubles(sound, repository=tmp_path)
    assert found["launcher"][1] == f"there is no launch/tpu_pod.sh in {tmp_path}"


@pytest.mark.parametrize(
    "override, detail, remedy",
    [
        ("train.batch_size=100", "train.batch_size 100 is not divisible by the 32 devices", "nearest that is: 96"),
        ("model.hidden_size=8192", "147 GB a chip", "take more chips, model.remat=block or a smaller model"),
        ("train.batch_size=49152", "GB a chip", "trm train baseline --set train.accumulation=3"),
        ("model.hiden_size=3", "unknown setting 'model.hiden_size'", "trm show baseline"),
    ],
)
def test_runs_that_the_tpu_cannot_take(sound, override, detail, remedy):
    """The launcher, whose Python here knows no settings, lets them pass."""
    found = troubles(sound, *ARGUMENTS, "--", override)
    status, said, mend = found.pop("fit of baseline")
    assert status == "fail" and detail in said and remedy in mend
    assert found.keys() <= {"fit of exp02a_01"}


def test_a_type_that_is_not_in_the_table(sound):
    sound.cloud(offers={"here-a": ["v3-32", "tpu-ubuntu2204-base"]}, location="here", quotas=[])
    found = troubles(sound, *ARGUMENTS, "--type", "v3-32", "--zone", "here-a")
    assert found.keys() == {"fit", "quota"} and "no device 'v3-32'" in found["fit"][1]


def test_what_is_not_committed(sound, tmp_path):
    checkout = tmp_path / "checkout"
    shutil.copytree(sound.repository, checkout)
    (checkout / "notes.txt").write_text("not sent")
    assert not troubles(sound, repository=checkout)
    (checkout / "trm_jax" / "new.py").write_text("")
    found = troubles(sound, repository=checkout)
    assert found["code"][:2] == ("fail", "trm_jax/new.py not committed") and "--dirty" in found["code"][2]
    assert not troubles(sound, *ARGUMENTS, "--dirty", repository=checkout)
    assert list(troubles(sound, *ARGUMENTS, "--", "log.wandb_project=--dirty", repository=checkout)) == ["code"]
    commit(checkout)
    assert not troubles(sound, repository=checkout)
    (checkout / "launch" / "worker.sh").write_text("")  # git's line about it begins with a space
    assert troubles(sound, repository=checkout)["code"][1] == "launch/worker.sh not committed"


def test_packages_that_pip_does_not_find(sound):
    (sound.folder / "code").write_text("1")
    found = troubles(sound)
    assert found["requirements"][0] == "fail" and "pip install --dry-run" in found["requirements"][2]


def test_an_ssh_key_that_asks_for_its_passphrase(sound):
    sound.program("bin/ssh-keygen", "#!/bin/sh\nexit 1\n")
    assert not troubles(sound)  # the agent knows it
    sound.program("bin/ssh-add", "#!/bin/sh\nexit 1\n")
    key = sound.folder / "operator" / ".ssh" / "google_compute_engine"
    assert troubles(sound)["ssh key"][::2] == ("fail", f"ssh-add {key}")
    key.unlink()
    assert troubles(sound)["ssh key"][0] == "warn"


def test_without_gcloud_the_rest_is_still_looked_at(sound):
    (sound.folder / "bin" / "gcloud").unlink()
    for program in Path("/usr/bin").iterdir():
        if program.name != "gcloud" and not (sound.folder / "bin" / program.name).exists():
            (sound.folder / "bin" / program.name).symlink_to(program)
    sound.environ["PATH"] = str(sound.folder / "bin")
    checks, _ = examine(sound)
    assert checks["gcloud"].status == "fail" and "cloud.google.com/sdk" in checks["gcloud"].remedy
    assert checks["fit"].status == "ok" and "account" not in checks


def test_a_rehearsal_writes_down_what_would_be_asked(sound):
    _, rehearsal = examine(sound, rehearsal=True)
    assert sound.calls() == []
    sound.cloud(project="PROJECT")
    examine(sound)
    asked = [shlex.split(line)[1:] for line in rehearsal.said if line.startswith("gcloud ")]
    assert [call for call in asked if call[0] != "config"] == [call for call in sound.calls() if call[0] != "config"]


def test_the_command(sound, monkeypatch, capsys):
    """Here with the checkout that is tested, whatever its state."""
    for name, value in sound.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # the command sets it too: this one is taken back
    sound.cloud(account="")
    assert main(["doctor", "--pod", *ARGUMENTS, "--dirty"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "  account: gcloud auth login" in lines
    assert lines[-1] == "1 problem; mend and ask again: trm doctor exp02a --pod --bucket=gs://mine/runs --dirty"
    assert main(["doctor", "exp02a", "--pod", "--bucket=mine/runs", "--dry-run", "--set", "seed=1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("launch/tpu_pod.sh --dry-run --dirty exp02a --bucket=gs://mine/runs -- seed=1")
    assert "gcloud storage rm gs://mine/runs/.trm_doctor" in lines
    assert any(line.startswith("gcloud storage buckets get-iam-policy gs://mine ") for line in lines)
    assert main(["doctor", "--pod", *ARGUMENTS, "--type=v4-abc"]) == 2
    assert "error: --type v4-abc is no TPU" in capsys.readouterr().err
    assert main(["doctor", "--dry-run"]) == 2
    assert main(["doctor", "--dry-run", "--pod", "exp99"]) == 2
    assert "error: no experiment exp99" in capsys.readouterr().err
