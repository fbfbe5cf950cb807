"""launch/tpu_pod.sh --check and `trm doctor --pod`: each thing that would stop the launcher is named, with its remedy,
and nothing is made."""

import shlex
import shutil
from pathlib import Path

import pytest

from tests.launch.conftest import commit
from trm_jax.cli.health import Check, runs
from trm_jax.cli.main import main
from trm_jax.errors import InputError

ARGUMENTS = ("exp02a", "--bucket=gs://mine/runs")
QUOTA = "TPUV4sPodPerProjectPerRegionForTPUAPI"
HOSTS = "serviceAccount:42-compute@developer.gserviceaccount.com"
OBJECTS, BUCKET = "roles/storage.objectUser", "roles/storage.legacyBucketReader"
EDITORS = "projectEditor:science"
ENOUGH = [[OBJECTS, HOSTS, ""], [BUCKET, HOSTS, ""]]


def quota(value: str, name: str = QUOTA, places: str = "us-central2") -> list[str]:
    return [name, places, value]


def policies(bucket: list, project: list = ()) -> dict:
    """Of [role, member, title of a condition] a list for the bucket and one for its project."""
    return {"bucket": [*bucket, ["roles/storage.admin", "user:a@b.c", ""]], "project": list(project)}


@pytest.fixture
def sound(pod):
    """A cloud and a machine on which nothing is wrong."""
    pod.group("exp02a", "baseline", "exp02a_01")
    pod.cloud(quotas=[quota("64")], policies=policies(ENOUGH))
    for program in ("ssh", "scp", "ssh-keygen", "ssh-add"):
        pod.program(f"bin/{program}", "#!/bin/sh\nexit 0\n")
    key = pod.folder / "operator" / ".ssh" / "google_compute_engine"
    key.parent.mkdir()
    key.touch()
    return pod


def examine(pod, *arguments: str) -> dict[str, Check]:
    """The findings of the launcher by name."""
    ended = pod.launch("--check", *(arguments or ARGUMENTS))
    lines = [line.split("\t") for line in ended.out.splitlines()]
    assert lines.pop(0)[:1] == ["runs"], ended.err
    checks = [Check(name, status, *rest) for status, name, *rest in lines]
    assert all(bool(check.remedy) == (check.status != "ok") for check in checks), checks
    assert len({check.name for check in checks}) == len(checks)
    assert ended.code == any(check.status == "fail" for check in checks)
    return {check.name: check for check in checks}


def troubles(pod, *arguments: str) -> dict[str, tuple[str, str, str]]:
    return {c.name: (c.status, c.detail, c.remedy) for c in examine(pod, *arguments).values() if c.status != "ok"}


def test_nothing_is_wrong_and_nothing_is_left_behind(sound):
    checks = examine(sound)
    assert {check.status for check in checks.values()} == {"ok"}, checks
    assert checks["launcher"].detail == "2 runs on a v4-64 in us-central2-b, into gs://mine/runs"
    done = sound.calls()
    assert not any(word in call for call in done for word in ("create", "delete", "ssh"))
    assert not [path for path in (sound.folder / "bucket").rglob("*") if path.is_file()]
    # A dry run prints the very calls and makes none.
    printed = sound.launch("--check", "--dry-run", *ARGUMENTS).out.splitlines()
    asked = [shlex.split(line)[1:] for line in printed if line.startswith("gcloud ")]
    assert sound.calls() == done
    assert asked == [[word.replace("science", "PROJECT") for word in call] for call in done]


@pytest.mark.parametrize(
    "cloud, expected",
    [
        ({"account": ""}, {"account": ("fail", "gcloud auth login")}),
        ({"project": ""}, {"project": ("fail", "gcloud config set project PROJECT")}),
        ({"faults": {"projects 1": "ERROR: denied"}}, {"project": ("fail", "gcloud projects list")}),
        (
            {"apis": ["other"], "offers": {"us-central2-b": []}, "quotas": [quota("0")], "location": "EUROPE-WEST4",
             "faults": {"list 1": "ERROR: PERMISSION_DENIED: x", "storage 1": "ERROR: 403 forbidden"},
             "policies": policies([[OBJECTS, HOSTS, ""]])},
            {
                "TPU API": ("fail", "gcloud services enable tpu.googleapis.com --project=science"),
                "TPU type": ("fail", "accelerator-types list --zone=us-central2-b"),
                "TPU software": ("fail", "gcloud compute tpus versions list"),
                "queued resources": (
                    "fail", "add-iam-policy-binding science --member=user:me@example.com --role=roles/tpu.admin"
                ),
                "quota": ("fail", "https://console.cloud.google.com/iam-admin/quotas?project=science"),
                "bucket": ("warn", "buckets create gs://OTHER --location=us-central2"),
                "bucket access": ("fail", "--member=user:me@example.com --role=roles/storage.objectUser"),
                "service account": (
                    "warn", f"gcloud storage buckets add-iam-policy-binding gs://mine --member={HOSTS} --role={BUCKET}"
                ),
            },
        ),
        (
            {"faults": {"services 1": "ERROR: denied", "quotas 1": "ERROR: Invalid choice", "storage 2": "ERROR: 403"},
             "policies": policies([])},
            {
                "TPU API": ("warn", "gcloud services enable tpu.googleapis.com"),
                "quota": ("warn", "https://console.cloud.google.com"),
                "bucket access": ("fail", "--role=roles/storage.objectUser"),
                "service account": ("warn", f"--member={HOSTS} --role={OBJECTS} && gcloud storage buckets add-iam"),
            },
        ),
        (
            {"quotas": [quota("32")], "faults": {"buckets 1": "ERROR: 403 forbidden"}},
            {
                "quota": ("warn", "https://console.cloud.google.com/iam-admin/quotas"),
                "bucket": ("fail", "--role=roles/storage.legacyBucketReader"),
            },
        ),
        (
            {"policies": policies([]), "faults": {"buckets 2": "ERROR: 403 forbidden"}},
            {"service account": ("warn", f"--role={BUCKET}")},
        ),
        (
            {"quotas": [quota("64", places="us-east1"), quota("64", "TPUV5sLitepodPerProjectPerRegionForTPUAPI"),
                        quota("64", "TPUV4sPreemptiblePodPerProjectPerRegionForTPUAPI")],
             "bucket": "yours"},
            {
                "quota": ("warn", "https://console.cloud.google.com"),
                "bucket": ("fail", "gcloud storage buckets create gs://mine --location=us-central2"),
            },
        ),
    ],
)  # fmt: skip
def test_what_google_would_refuse(sound, cloud, expected):
    sound.cloud(**cloud)
    found = troubles(sound)
    assert {name: status for name, (status, _, _) in found.items()} == {name: e[0] for name, e in expected.items()}
    for name, (_, remedy) in expected.items():
        assert remedy in found[name][2], name


@pytest.mark.parametrize(
    ("given", "lacking"),
    [
        (policies([], [["roles/storage.admin", HOSTS, ""]]), []),
        (policies([[BUCKET, "allUsers", ""]], [["roles/storage.objectAdmin", HOSTS, ""]]), []),
        # The default: who edits a project owns its buckets.
        (policies([["roles/storage.legacyBucketOwner", EDITORS, ""]], [["roles/editor", HOSTS, ""]]), []),
        # An editor of a project whose bucket gives editors nothing, what is for editors only, a role under a condition.
        (policies([], [["roles/editor", HOSTS, ""]]), [OBJECTS, BUCKET]),
        (policies([["roles/storage.admin", EDITORS, ""]], [["roles/viewer", HOSTS, ""]]), [OBJECTS, BUCKET]),
        (policies([[OBJECTS, HOSTS, "never"], [BUCKET, HOSTS, ""]]), [OBJECTS]),
    ],
)  # fmt: skip
def test_roles_that_are_enough_and_roles_that_are_not(sound, given, lacking):
    sound.cloud(policies=given)
    found = troubles(sound)
    assert list(found) == ["service account"] * bool(lacking)
    assert [role for role in (OBJECTS, BUCKET) if lacking and role in found["service account"][2]] == lacking


@pytest.mark.parametrize("flags", ["--network=n --service-account=tpu@x.y", "--service-account tpu@x.y --reserved"])
def test_a_service_account_of_ones_own(sound, flags):
    sound.environ["TRM_CREATE_FLAGS"] = flags
    assert "--member=serviceAccount:tpu@x.y" in troubles(sound)["service account"][2]
    sound.cloud(policies=policies([["roles/storage.admin", "serviceAccount:tpu@x.y", ""]]))
    assert not troubles(sound)


def test_the_settings_of_the_launcher_stand_in_variables_too(sound):
    """A bucket with a folder; and spot, which has quotas of its own, of which -1 is no limit."""
    sound.environ |= {"TRM_SPOT": "1", "TRM_BUCKET": "mine/trm/seed1/"}
    sound.cloud(quotas=[quota("0"), quota("-1", "TPUV4sPreemptiblePodPerProjectPerZoneForTPUAPI", "us-central2-b")])
    checks = examine(sound, "exp02a")
    assert checks["launcher"].detail == "2 runs on a v4-64 in us-central2-b, spot, into gs://mine/trm/seed1"
    assert checks["quota"].status == "ok" and "v4-64, spot, in us-central2-b" in checks["quota"].detail
    assert checks["bucket"].detail.startswith("gs://mine lies")
    assert checks["bucket access"].detail.startswith("gs://mine/trm/seed1 takes")


def test_what_is_not_committed(sound, tmp_path):
    sound.repository = shutil.copytree(sound.repository, tmp_path / "checkout")
    sound.cloud(account="")  # the cloud is another test's
    (sound.repository / "notes.txt").write_text("not sent")
    assert list(troubles(sound)) == ["account"]
    (sound.repository / "trm_jax" / "new.py").write_text("")
    status, detail, remedy = troubles(sound)["code"]
    assert status == "fail" and "trm_jax/new.py is not committed" in detail and "--dirty" in remedy
    assert list(troubles(sound, *ARGUMENTS, "--dirty")) == ["account"]
    commit(sound.repository)
    assert list(troubles(sound)) == ["account"]


def test_what_this_machine_lacks(sound):
    """Packages that pip does not find, a key that asks for its passphrase, gcloud: the rest is still looked at."""
    (sound.folder / "code").write_text("1")
    (sound.folder / "notes").write_text("note: exp02a_02 is left out: 5 does not divide 6\n")
    sound.program("bin/ssh-keygen", "#!/bin/sh\nexit 1\n")
    found = troubles(sound)
    assert found.keys() == {"requirements", "run exp02a_02"}  # the agent knows the key
    assert found["requirements"][0] == "fail" and "pip install --dry-run" in found["requirements"][2]
    (sound.folder / "bin" / "gcloud").unlink()
    for program in Path("/usr/bin").iterdir():
        if program.name != "gcloud" and not (sound.folder / "bin" / program.name).exists():
            (sound.folder / "bin" / program.name).symlink_to(program)
    sound.environ["PATH"] = str(sound.folder / "bin")
    sound.program("bin/ssh-add", "#!/bin/sh\nexit 1\n")
    found = troubles(sound)
    key = sound.folder / "operator" / ".ssh" / "google_compute_engine"
    assert found["ssh key"][::2] == ("fail", f"ssh-add {key}")
    assert found["gcloud"][0] == "fail" and "cloud.google.com/sdk" in found["gcloud"][2]
    key.unlink()
    assert troubles(sound)["ssh key"][0] == "warn"


@pytest.mark.parametrize(
    "arguments, said",
    [
        (("exp02a",), "name a bucket for the workdirs"),
        (("--bucket=gs://mine",), "name an experiment or a group"),
        (("exp99", "--bucket=gs://mine"), "no experiment exp99"),
        ((*ARGUMENTS, "--type=v6e-16"), "--type v6e-16 wants --zone"),
    ],
)
def test_what_the_launcher_would_refuse(sound, arguments, said):
    sound.environ.pop("TRM_BUCKET")
    ended = sound.launch("--check", *arguments)
    assert ended.code == 2 and said in ended.err and len(ended.err.splitlines()) == 1 and not sound.calls()


def test_an_installation_without_launchers(tmp_path, monkeypatch):
    monkeypatch.setattr(runs.trm_jax, "__file__", str(tmp_path / "trm_jax" / "__init__.py"))
    with pytest.raises(InputError, match=f"there is no {tmp_path}/launch/tpu_pod.sh; work in a checkout"):
        runs.ask_launcher(ARGUMENTS, {})


SAID = "runs\t{}\tgs://mine/runs\tbaseline exp02a_01\nok\tcode\tcommitted\t\nfail\taccount\tnone\tgcloud auth login\n"


@pytest.mark.parametrize(
    "kind, setting, name, detail, remedy",
    [
        ("v4-64", {"train.batch_size": "100"}, "fit of baseline", "divisible by the 32 devices", "nearest that is: 96"),
        ("v4-64", {"train.batch_size": "49152", "model.remat": "none"}, "fit of baseline", "GB a", "accumulation"),
        ("v3-32", {"seed": "1"}, "fit", "no device 'v3-32'", "trm plan baseline --device ... --memory GB"),
    ],
)  # fmt: skip
def test_runs_that_the_tpu_cannot_take(kind, setting, name, detail, remedy):
    found = list(runs.on_tpu(SAID.format(kind), {"data.source": "generated", "data.test_puzzles": "1000", **setting}))
    assert found[-2:] == [Check("code", "ok", "committed"), Check("account", "fail", "none", "gcloud auth login")]
    assert found[0] == Check("puzzles of baseline, exp02a_01", "ok", "generated when they are needed")
    (check,) = [check for check in found if check.name == name]
    assert check.status != "ok" and detail in check.detail and remedy in check.remedy


def test_the_table_of_the_doctor(sound, monkeypatch, capfd):
    """With the checkout that is tested, whatever its state."""
    for name, value in sound.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # the command sets it too: this one is taken back
    sound.cloud(account="")
    generated = ["--set", "data.source=generated", "data.test_puzzles=1000"]
    assert main(["doctor", "--pod", "exp02a", "--bucket", "gs://mine/runs", "--dirty", *generated]) == 1
    lines = [line.strip() for line in capfd.readouterr().out.splitlines()]
    assert "remedy: gcloud auth login" in lines and any(line.startswith("ok    fit ") for line in lines)
    assert main(["doctor", "--pod", "exp99", "--bucket", "gs://mine/runs"]) == 2
    assert capfd.readouterr().err == "error: no experiment exp99\n"
