"""`trm doctor` through its command line, and its judgement of hardware that this machine may not have."""

import json
import os
import resource
import signal
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.gcs.server import Gcs
from tests.gcs.storage import Fault
from trm_jax.cli.health import devices as probe
from trm_jax.cli.health import machine
from trm_jax.cli.health.devices import Device, accelerators, devices, nvidia_gpus, run_probe, tpu_chips
from trm_jax.cli.health.runs import fits, puzzles
from trm_jax.configs import registry, resolve
from trm_jax.planning import find
from trm_jax.storage.paths import as_path

CPU = Device("cpu:0", "cpu", "cpu")


@pytest.fixture
def doctor(here, monkeypatch):
    """Runs `trm doctor --json` on a machine whose JAX finds these devices: (exit code, checks by name)."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")  # the command sets it too: this one is taken back

    def run(*arguments, found=(CPU,), failure=""):
        monkeypatch.setattr(probe, "run_probe", lambda environ: (found, failure))
        result = here("doctor", "--json", *arguments)
        report = json.loads(result.out)
        assert report["ok"] == (result.code == 0)
        assert all(bool(check["remedy"]) == (check["status"] != "ok") for check in report["checks"])
        return result.code, {check["name"]: check for check in report["checks"]}

    return run


@pytest.fixture
def gcs(monkeypatch):
    with Gcs("bucket") as gcs:
        for name, value in gcs.environment.items():
            monkeypatch.setenv(name, value)
        yield gcs


def page(name: str, **changes) -> tuple:
    return name, resolve.override(registry.get(name), {key.replace("__", "."): v for key, v in changes.items()})


def write(root: Path, name: str, text: str = "") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_a_sound_machine_passes(doctor, tmp_path):
    code, checks = doctor("--workdir", "runs/new", found=(CPU, CPU, CPU))
    assert code == 0
    assert checks["devices"]["detail"] == "3 x cpu"
    assert {"Python", "jax", "orbax-checkpoint"} <= set(checks["packages"]["detail"].replace(",", "").split())
    assert list(tmp_path.iterdir()) == []  # neither the workdir nor a trace of the writing


def test_each_remedy_is_a_line_that_can_be_pasted(here, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(probe, "run_probe", lambda environ: ((), "JAX does not start"))
    Path("file").touch()
    result = here("doctor", "--workdir", "file")
    lines = [line.strip() for line in result.out.splitlines()]
    assert result.code == 1 and any(line.startswith("FAIL  workdir") for line in lines)
    assert any(line.startswith("remedy: unset JAX_PLATFORMS   # or ") for line in lines)
    assert lines[-1].startswith("2 of these checks failed")


def test_how_jax_starts():
    """With three devices; with a variable that keeps it from starting; and when it hangs."""
    environ = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_force_host_platform_device_count=3"}
    found, failure = run_probe(environ)
    assert not failure and [device.kind for device in found] == ["cpu"] * 3
    assert {check.status for check in devices(found, failure, environ)} == {"ok"}
    environ["XLA_FLAGS"] = "--xla_no_such_flag=1"
    found, failure = run_probe(environ)
    (check,) = devices(found, failure, environ)
    assert check.status == "fail" and "--xla_no_such_flag" in check.detail
    assert check.remedy.startswith("unset XLA_FLAGS JAX_PLATFORMS   # or ")
    assert "did not answer within 0.01 s" in run_probe(environ, 0.01)[1]


def test_packages_that_are_missing(monkeypatch):
    monkeypatch.setattr(machine, "installed_version", lambda name: None if name in ("grain", "gguf", "wandb") else "1")
    first, *missing = machine.packages()
    assert "grain" not in first.detail
    assert [(check.name, check.status) for check in missing] == [("grain", "fail"), ("gguf", "warn"), ("wandb", "warn")]
    wanted = [f"{sys.executable} -m pip install {one}" for one in ("grain", "'trm_jax[gguf]'")]
    assert [check.remedy for check in missing[:2]] == wanted


def test_a_workdir_that_cannot_be_written(doctor, tmp_path):
    (tmp_path / "file").touch()
    code, checks = doctor("--workdir", "file")
    assert code == 1 and "Not a directory" in checks["workdir"]["detail"]
    # A file size limit stops root too, at the writing itself, as a quota or a full disk does.
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        check = machine.place("workdir", tmp_path / "runs")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert check.status == "fail" and f"cannot write to {tmp_path}: File too large" in check.detail


@pytest.mark.parametrize(("free", "status"), [(2**40, "ok"), (2**31, "warn"), (2**20, "fail")])
def test_a_disk_that_is_nearly_full(monkeypatch, tmp_path, free, status):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=free))
    assert machine.place("workdir", tmp_path).status == status


def test_a_bucket_is_written_to_and_left_clean(doctor, gcs):
    code, checks = doctor("--workdir", "gs://bucket/run", "--bucket", "gs://bucket/other")
    assert code == 0, checks["workdir"]
    assert checks["workdir"]["detail"] == "gs://bucket/run takes objects and gives them up again"
    written = {name.partition("/")[0] for kind, name in gcs.requests if kind == "write"}
    assert written == {"run", "other"} and gcs.names() == []


@pytest.mark.parametrize(
    "kind, status, detail, remedy",
    [
        ("write", 403, "no permission to write to gs://bucket/run (403)", "--role=ROLE, for the roles"),
        ("delete", 403, "no permission to delete from gs://bucket/run (403)", "--role=ROLE, for the roles"),
        ("bucket", 401, "Google does not know who asks for gs://bucket/run (401)", "gcloud auth application-default"),
        (None, 404, "there is no bucket gs://nosuch", "gcloud storage buckets create gs://nosuch"),
    ],
)
def test_a_bucket_that_a_run_may_not_use(gcs, kind, status, detail, remedy):
    if kind:
        gcs.inject(Fault(kind, status=status))
    check = machine.place("bucket", as_path("gs://bucket/run" if kind else "gs://nosuch/run"))
    assert (check.status, check.detail) == ("fail", detail) and remedy in check.remedy


@pytest.mark.parametrize("bucket", ["s3://bucket/run", "/bucket/run", "bucket", "gs://", ""])
def test_buckets_elsewhere(refused, bucket):
    refused("doctor", "--bucket", bucket)


def test_what_a_device_cannot_take_is_named_with_the_setting_that_fits():
    runs = [page("baseline", model__remat="none"), page("demo", train__batch_size=33), page("sudoku4")]
    large, batch, good = fits(runs, find("2xa100"))
    assert (large.name, large.status) == ("fit of baseline", "fail") and "2xa100 has 40" in large.detail
    assert large.remedy == "trm train baseline --set train.accumulation=4"
    assert batch.remedy == "nearest that is: 32" and "33 is not divisible by the 2 devices" in batch.detail
    assert good.status == "ok" and good.detail.startswith("sudoku4: at most ")
    (small,) = fits([page("baseline", model__hidden_size=8192)], find("2xa100"))
    assert small.remedy == "take more chips or a smaller model"


def test_experiments_are_held_against_this_machine(doctor):
    """baseline at once would take the memory of several accelerators."""
    generated = ["--set", "data.source=generated", "data.test_puzzles=10"]
    code, checks = doctor("baseline", "sudoku4", *generated, found=(CPU, CPU))
    assert code == 1 and checks["puzzles of baseline, sudoku4"]["status"] == "ok"
    assert "this machine has" in checks["fit of baseline"]["detail"]
    assert checks["fit"]["detail"].startswith("sudoku4: ")
    gpu = Device("cuda:0", "gpu", "H200", 300 * 10**9)
    code, checks = doctor("baseline", *generated, found=(gpu,))
    assert code == 0 and checks["devices"]["detail"] == "1 x H200 of 279.4 GiB"


def test_puzzles_in_a_folder(tmp_path, gcs):
    def look(*, bucket="", **data):
        changes = {f"data__{key}": value for key, value in data.items()}
        (check,) = puzzles([page("demo", **changes), page("sudoku6", **changes)], bucket=bucket)
        assert check.name == "puzzles of demo, sudoku6"
        return check.status, check.detail, check.remedy

    assert look(source="generated")[0] == "ok"
    build = "trm data sudoku build --format csv --output-dir"
    assert look(source="csv")[2] == f"{build} puzzles   # then --set data.path=puzzles"
    absent = f"{tmp_path} has no train.csv and no test.csv"
    assert look(source="csv", path=str(tmp_path)) == ("fail", absent, f"{build} {tmp_path}")
    for name in ("train.csv", "test.csv"):
        write(tmp_path, name)
        gcs.put(f"there/{name}", b"x")
    assert look(source="csv", path=str(tmp_path))[0] == "ok"
    assert look(source="arrays", path=str(tmp_path))[1] == f"{tmp_path} has no train and no test"
    assert look(source="csv", path="gs://bucket/there")[0] == "ok"
    assert look(source="csv", path="gs://bucket/nowhere")[2] == f"{build} gs://bucket/nowhere"
    assert look(source="csv", path="gs://bucket/there", bucket="gs://mine/runs")[0] == "ok"
    # The hosts of a TPU have no folder of this machine.
    status, _, remedy = look(source="csv", path=str(tmp_path), bucket="gs://mine/runs")
    assert status == "fail" and remedy.startswith(f"gcloud storage rsync --recursive {tmp_path} gs://mine/runs/puzzles")
    assert look(source="csv", bucket="gs://mine/runs")[2].endswith("# then --set data.path=gs://mine/runs/puzzles")


def test_puzzles_of_the_hub(monkeypatch):
    """Asked for and not fetched; the hosts of a TPU ask without credentials and have nothing yet."""
    hub = pytest.importorskip("huggingface_hub")
    asked, cached = [], []

    def answer(url, *, token, timeout):
        asked.append(token)
        if raised:
            raise raised

    monkeypatch.setattr(hub, "get_hf_file_metadata", answer)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda repo, file, **how: file if file in cached else None)

    def look(bucket=""):
        (check,) = puzzles([page("demo", data__source="hub")], bucket=bucket)
        return check

    raised = None
    assert look().status == "warn"
    assert look().remedy == "hf download sapientinc/sudoku-extreme train.csv test.csv --repo-type dataset"
    assert look("gs://mine/runs").status == "ok" and asked == [None, None, False]
    raised = ConnectionError("no network")
    assert (look().status, look("gs://mine/runs").status) == ("fail", "warn")  # the hosts may have one
    assert look().detail.endswith("no network") and look().remedy.startswith("hf download")
    cached += ["train.csv", "test.csv"]
    asked.clear()
    assert look().detail == "sapientinc/sudoku-extreme is here" and not asked


def test_the_coordinator_of_several_hosts(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert machine.coordinator("127.0.0.1", port).status == "ok"
    nobody = machine.coordinator("127.0.0.1", port)
    assert nobody.status == "warn" and nobody.remedy.startswith(f"trm train NAME --coordinator 127.0.0.1:{port}")
    unknown = machine.coordinator("no-such-host.invalid", 8476)
    assert unknown.status == "fail" and unknown.remedy.startswith("nc -vz -w 5 no-such-host.invalid 8476")
    # A port whose queue of callers is full is as silent as a firewall.
    monkeypatch.setattr(machine, "PATIENCE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as callers:
        port = server.getsockname()[1]
        for _ in range(2):
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(("127.0.0.1", port))
        silent = machine.coordinator("127.0.0.1", port)
    assert silent.status == "fail" and "timed out" in silent.detail


def test_finds_nvidia_hardware_in_the_file_system(tmp_path):
    assert nvidia_gpus(tmp_path) == 0
    for node in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        write(tmp_path, f"dev/{node}")
    assert nvidia_gpus(tmp_path) == 2


def test_finds_tpus_and_takes_no_network_card_for_one(tmp_path):
    for slot, (vendor, device) in enumerate([("0x1ae0", "0x0042"), ("0x8086", "0x005e")]):
        write(tmp_path, f"sys/bus/pci/devices/{slot}/vendor", vendor + "\n")
        write(tmp_path, f"sys/bus/pci/devices/{slot}/device", device + "\n")
    assert tpu_chips(tmp_path) == 0
    for slot in range(4):
        write(tmp_path, f"sys/bus/pci/devices/tpu{slot}/vendor", "0x1ae0\n")
        write(tmp_path, f"sys/bus/pci/devices/tpu{slot}/device", "0x005e\n")
    assert tpu_chips(tmp_path) == 4


@pytest.mark.parametrize(
    ("plugins", "platforms", "remedies"),
    [
        ((), "", ["-m pip install --upgrade 'jax[cuda13]'", "-m pip install --upgrade 'jax[tpu]'"]),
        (("jax-cuda12-plugin", "libtpu"), "cpu", ["unset JAX_PLATFORMS"] * 2),
        (("jax-cuda13-plugin", "libtpu"), "", ["JAX_PLATFORMS=cuda trm doctor", "JAX_PLATFORMS=tpu trm doctor"]),
        (("jax-cuda13-plugin", "libtpu"), "cuda,cpu", ["JAX_PLATFORMS=cuda trm doctor", "unset JAX_PLATFORMS"]),
    ],
)
def test_says_why_hardware_goes_unused(tmp_path, monkeypatch, plugins, platforms, remedies):
    """A machine that shows a GPU and a TPU, under a JAX that finds the CPU or one of them."""
    write(tmp_path, "dev/nvidia0")
    write(tmp_path, "dev/accel0")
    monkeypatch.setattr("trm_jax.cli.health.devices.installed_version", lambda name: name in plugins)
    environ = {"JAX_PLATFORMS": platforms}
    found = list(accelerators([CPU], environ, tmp_path))
    assert [check.name for check in found] == ["gpu", "tpu"]
    assert all(remedy in check.remedy for check, remedy in zip(found, remedies, strict=True))
    assert [check.status for check in found] == ["fail" if "doctor" in remedy else "warn" for remedy in remedies]
    gpu = Device("cuda:0", "gpu", "H200")
    assert [check.name for check in accelerators([gpu], environ, tmp_path)] == ["tpu"]


def test_a_device_that_computes_wrongly_is_named():
    assert [check.status for check in devices([CPU], "", {})] == ["ok"]
    _, check = devices([CPU, Device("cuda:0", "gpu", "H200", failure="RESOURCE_EXHAUSTED")], "", {})
    assert (check.name, check.status) == ("device cuda:0", "fail")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--set", "seed=1"], "--set changes an experiment; name it"),
        (["demoo"], "no experiment and no group matches 'demoo'. Did you mean demo"),
        (["--type", "v4-64"], "--type goes with --pod"),
        (["--coordinator", "host"], "'host'"),
        (["--coordinator", "host:0"], "'host:0'"),
        (["--coordinator", "::1"], "'::1'"),
        (["--coordinator", "h:²"], "'h:²'"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_bad_arguments(refused, arguments, said):
    assert said in refused("doctor", *arguments)
