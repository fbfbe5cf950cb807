"""`trm doctor` through its command line, and its judgement of hardware that this machine may not have."""

import json
import math
import os
import re
import resource
import shlex
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from tests.gcs.server import Gcs
from tests.gcs.storage import Fault
from trm_jax.cli.health import Check, Subject, network
from trm_jax.cli.health.devices import (
    accelerators,
    devices,
    judge,
    nvidia_driver,
    nvidia_gpus,
    overlooked,
    tpu_chips,
)
from trm_jax.cli.health.experiment import fits, puzzles
from trm_jax.cli.health.host import environment, memory
from trm_jax.cli.health.network import coordinator
from trm_jax.cli.health.probe import Device
from trm_jax.cli.health.storage import data
from trm_jax.cli.main import main
from trm_jax.configs import registry, resolve
from trm_jax.planning import find

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def doctor(tmp_path):
    """Runs `trm doctor --json` in a process of its own: (exit code, checks by name)."""

    def run(*arguments: str, preexec_fn=None, **environ: str):
        variables = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "JAX_PLATFORMS": "cpu",
            "XLA_FLAGS": "",
            **environ,
        }
        command = [sys.executable, "-m", "trm_jax", "doctor", "--json", *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=variables, capture_output=True, text=True, preexec_fn=preexec_fn
        )
        assert done.stdout, done.stderr
        report = json.loads(done.stdout)
        assert report["ok"] == (done.returncode == 0)
        assert all(bool(check["remedy"]) == (check["status"] != "ok") for check in report["checks"])
        return done.returncode, {check["name"]: check for check in report["checks"]}

    return run


def test_a_sound_machine_passes(doctor, tmp_path):
    code, checks = doctor("--workdir", "runs/new", XLA_FLAGS="--xla_force_host_platform_device_count=3")
    assert code == 0
    assert checks["devices"]["detail"] == "3 x cpu"
    assert "agrees with numpy" in checks["computation"]["detail"]
    assert re.search(r"jax \d+\.\d+.*orbax-checkpoint \d", checks["packages"]["detail"])
    assert list(tmp_path.iterdir()) == []  # neither the workdir nor a trace of the writing


def test_the_table_ends_with_remedies_that_can_be_pasted(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_DISABLE_JIT", "1")
    monkeypatch.setenv("COLUMNS", "40")
    file = tmp_path / ("long" * 20)
    file.touch()
    assert main(["doctor", "--workdir", str(file), "--data", str(file) + ".csv"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert "  environment: unset JAX_DISABLE_JIT" in lines
    assert f"  data: trm data sudoku build --output-dir {tmp_path}" in lines
    again = shlex.join(["trm", "doctor", "--workdir", str(file), "--data", f"{file}.csv"])
    assert lines[-1] == f"2 problems; mend and ask again: {again}"


def test_a_variable_that_keeps_jax_from_starting(doctor):
    code, checks = doctor(XLA_FLAGS="--xla_no_such_flag=1")
    assert code == 1
    assert checks["devices"]["status"] == "fail"
    assert "--xla_no_such_flag" in checks["devices"]["detail"]
    assert checks["devices"]["remedy"] == "unset XLA_FLAGS"


def test_names_exactly_the_variables_that_keep_jax_from_starting():
    wrong = {"XLA_FLAGS": "--xla_no_such_flag=1", "JAX_PLATFORMS": "no_such_platform"}
    (check,) = devices(Subject(environ={**os.environ, "LD_LIBRARY_PATH": "/nonexistent", **wrong}))
    assert check.remedy == "unset XLA_FLAGS JAX_PLATFORMS"


def test_a_start_that_hangs_is_given_up(doctor):
    code, checks = doctor("--device-timeout", "0.01")
    assert code == 1
    assert "did not answer within 0.01 s" in checks["devices"]["detail"]


@pytest.mark.parametrize("variable", ["JAX_ENABLE_X64", "JAX_DISABLE_JIT", "NUMBA_DISABLE_JIT"])
def test_warns_of_variables_that_change_or_slow_a_run(variable):
    (check,) = environment(Subject(environ={variable: "True"}))
    assert (check.status, check.remedy) == ("warn", f"unset {variable}")
    (check,) = environment(Subject(environ={variable: "0"}))
    assert check.status == "ok"


# Setting a limit in the child means a fork; it execs at once, so JAX's warning about its threads does not apply.
@pytest.mark.filterwarnings("ignore:os.fork")
def test_a_workdir_that_cannot_be_written(doctor, tmp_path):
    (tmp_path / "file").touch()
    code, checks = doctor("--workdir", "file")
    assert code == 1 and "not a directory" in checks["workdir"]["detail"]

    # A file size limit stops root too, at the writing itself, as a quota or a full disk does.
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))  # noqa: E731
    code, checks = doctor("--workdir", "runs", preexec_fn=limit)
    assert code == 1 and checks["workdir"]["status"] == "fail"
    assert f"cannot write to {tmp_path}" in checks["workdir"]["detail"]
    assert "File too large" in checks["workdir"]["detail"]


def test_a_compiler_cache_that_cannot_be_written(doctor, tmp_path):
    code, checks = doctor(JAX_COMPILATION_CACHE_DIR=str(tmp_path / "cache"))
    assert code == 0 and checks["compiler cache"]["detail"].endswith("takes files")
    code, checks = doctor(JAX_COMPILATION_CACHE_DIR="/proc/cache")
    assert code == 1 and checks["compiler cache"]["status"] == "fail"


def test_a_bucket_is_written_to_and_left_clean(doctor):
    with Gcs("bucket") as gcs:
        code, checks = doctor("--workdir", "gs://bucket/run", **gcs.environment)
    assert code == 0, checks["workdir"]
    assert checks["workdir"]["detail"] == "gs://bucket/run takes objects and gives them up again"
    (written,) = {name for kind, name in gcs.requests if kind == "write"}
    assert written.startswith("run/")
    assert gcs.names() == []


@pytest.mark.parametrize(
    "kind, status, detail, remedy",
    [
        ("write", 403, "no permission to write to gs://bucket/run (403)", "--role=ROLE, for the roles"),
        ("delete", 403, "no permission to delete from gs://bucket/run (403)", "--role=ROLE, for the roles"),
        ("bucket", 401, "Google does not know who asks for gs://bucket/run (401)", "gcloud auth application-default"),
        ("bucket", 404, "there is no bucket gs://bucket", "gcloud storage buckets create gs://bucket"),
    ],
)
def test_a_bucket_that_a_run_may_not_use(doctor, kind, status, detail, remedy):
    with Gcs("bucket") as gcs:
        gcs.inject(Fault(kind, status=status))
        code, checks = doctor("--bucket", "gs://bucket/run", **gcs.environment)
    assert code == 1 and checks["bucket"]["detail"] == detail
    assert remedy in checks["bucket"]["remedy"]


def test_a_bucket_as_the_launcher_takes_it(doctor):
    with Gcs("bucket") as gcs:
        code, checks = doctor("--bucket", "bucket/run", **gcs.environment)
    assert code == 0 and checks["bucket"]["detail"].startswith("gs://bucket/run takes objects")


@pytest.mark.parametrize("bucket", ["s3://bucket/run", "/bucket/run", "../run", "gs://", ""])
def test_buckets_elsewhere(refused, bucket):
    assert refused("doctor", "--bucket", bucket) == f"{bucket!r} names no bucket; write gs://BUCKET/FOLDER"


LOOK_AT_DATA = """
import sys
from trm_jax.cli.health import Subject
from trm_jax.cli.health.storage import data
for place in sys.argv[1:]:
    (check,) = data(Subject(data=place))
    print(check.status, check.detail, check.remedy, sep="|")
"""


def test_data_in_a_bucket():
    """In a process of its own, to which the bucket is Google's."""
    findings = {
        "gs://bucket/tables": "ok|gs://bucket/tables: test.csv, train.csv (not read)|",
        "gs://bucket/tables/test.csv": "ok|gs://bucket/tables/test.csv: CSV (not read)|",
        "gs://bucket/arrays": "ok|gs://bucket/arrays: train arrays (not read)|",
        "gs://bucket/nosuch/puzzles": "fail|gs://bucket/nosuch/puzzles: No such object|trm data sudoku build "
        "--output-dir gs://bucket/nosuch/puzzles",
        "gs://other/puzzles": "fail|there is no bucket gs://other|gcloud storage buckets create gs://other",
        "s3://bucket/puzzles": "fail|s3://bucket/puzzles is neither a path of this machine nor gs://BUCKET/...|copy it "
        "to one of them",
    }
    with Gcs("bucket") as gcs:
        for name in ("tables/train.csv", "tables/test.csv", "arrays/train/dataset.json"):
            gcs.put(name, b"x")
        command = [sys.executable, "-c", LOOK_AT_DATA, *findings]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **gcs.environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == list(findings.values()), done.stderr


def page(name: str, **changes) -> tuple:
    return name, resolve.override(registry.get(name), {key.replace("__", "."): v for key, v in changes.items()})


def test_what_a_device_cannot_take_is_named_with_the_setting_that_fits():
    large, batch, good = fits([page("baseline"), page("demo", train__batch_size=33), page("sudoku4")], find("2xa100"))
    assert (large.name, large.status) == ("fit of baseline", "fail") and "2xa100 has 40" in large.detail
    assert large.remedy == "trm train baseline --set train.accumulation=4"
    assert batch.remedy == "nearest that is: 32" and "33 is not divisible by the 2 devices" in batch.detail
    assert good.status == "ok" and good.detail.startswith("sudoku4: at most ")
    (small,) = fits([page("baseline", model__hidden_size=8192)], find("2xa100"))
    assert small.remedy == "take more chips, model.remat=block or a smaller model"


def test_experiments_are_held_against_this_machine(doctor):
    """baseline at once would take the memory of several accelerators."""
    settings = ["data.source=generated", "data.test_puzzles=10"]
    code, checks = doctor("baseline", "--set", *settings, XLA_FLAGS="--xla_force_host_platform_device_count=2")
    assert code == 1 and checks["puzzles of baseline"]["status"] == "ok"
    assert "this machine has" in checks["fit of baseline"]["detail"]
    code, checks = doctor("demo", "sudoku4")
    assert code == 0 and checks["fit"]["detail"].startswith("demo, sudoku4: ")


def test_puzzles_that_are_not_here(tmp_path):
    def look(**data):
        changes = {f"data__{key}": value for key, value in data.items()}
        (check,) = puzzles(Subject(experiments=(page("demo", **changes), page("sudoku6", **changes))))
        assert check.name == "puzzles of demo, sudoku6"
        return check

    assert look(source="generated").status == "ok"
    assert look(source="csv").detail == "data.source=csv and no data.path"
    missing = look(source="csv", path=str(tmp_path))
    assert missing.detail == f"{tmp_path} has no train.csv and no test.csv"
    assert missing.remedy == f"trm data sudoku build --format csv --output-dir {tmp_path}"
    for split in ("train", "test"):
        (tmp_path / f"{split}.csv").write_text("source,question,answer,rating\na,1.,12,0\n")
        write_arrays(tmp_path / "arrays" / split)
    found = look(source="csv", path=str(tmp_path))
    assert (found.status, found.detail) == ("ok", f"{tmp_path}: test.csv 1 puzzles; train.csv 1 puzzles")
    assert look(source="arrays", path=str(tmp_path / "arrays")).status == "ok"
    (tmp_path / "arrays" / "test" / "all__labels.npy").unlink()
    assert "all__labels.npy" in look(source="arrays", path=str(tmp_path / "arrays")).detail


def test_puzzles_of_the_hub(doctor, tmp_path):
    """Not fetched by the check, and asked for only when an experiment is named."""
    pytest.importorskip("huggingface_hub")
    offline = {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    code, checks = doctor(**offline)
    assert code == 0 and checks["puzzles of the catalogue"]["status"] == "warn"
    download = "hf download sapientinc/sudoku-extreme train.csv test.csv --repo-type dataset"
    assert checks["puzzles of the catalogue"]["remedy"] == download
    code, checks = doctor("demo", "--set", "data.source=hub", **offline)
    assert code == 1 and "is not here and cannot be fetched" in checks["puzzles of demo"]["detail"]
    assert checks["puzzles of demo"]["remedy"].startswith(download)
    cached = tmp_path / "hub" / "hub" / "datasets--sapientinc--sudoku-extreme"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    for name in ("train.csv", "test.csv"):
        (cached / "snapshots" / ("0" * 40)).mkdir(parents=True, exist_ok=True)
        (cached / "snapshots" / ("0" * 40) / name).touch()
    code, checks = doctor(**offline)
    assert checks["puzzles of the catalogue"]["detail"] == "sapientinc/sudoku-extreme is here"


def test_the_coordinator_of_several_hosts():
    def look(place: str) -> list[Check]:
        return list(coordinator(Subject(coordinator=place)))

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        (answers,) = look(f"127.0.0.1:{port}")
    assert (answers.name, answers.status) == (f"coordinator port {port}", "ok")
    assert "answers after" in answers.detail
    (free,) = look(f"127.0.0.1:{port}")
    assert f"127.0.0.1 is this machine, and {port} is free for process 0" == free.detail
    assert [check.name for check in look("[::1]:65535")] == ["coordinator port 65535"]
    (unknown,) = look("no-such-host.invalid:8476")
    assert unknown.status == "fail" and unknown.remedy.startswith("getent hosts no-such-host.invalid")


def test_a_coordinator_behind_a_firewall(monkeypatch):
    """A port whose queue of callers is full is as silent as a firewall."""
    monkeypatch.setattr(network, "PATIENCE_S", 0.3)
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server, ExitStack() as callers:
        port = server.getsockname()[1]
        for _ in range(2):
            caller = callers.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(("127.0.0.1", port))
        check = next(coordinator(Subject(coordinator=f"127.0.0.1:{port}")))
    assert (check.status, check.detail) == ("fail", f"127.0.0.1:{port} does not answer within 0.3 s")
    assert check.remedy.startswith(f"nc -vz -w 5 127.0.0.1 {port}")


@pytest.mark.slow  # gcsfs tries for half a minute
def test_a_bucket_out_of_reach(doctor):
    with Gcs() as gcs:
        environment = gcs.environment
    code, checks = doctor("--workdir", "gs://bucket/run", **environment)  # it is closed: nobody listens
    assert code == 1
    assert checks["workdir"]["detail"].startswith("gs://bucket cannot be reached")
    assert checks["workdir"]["remedy"] == "give the same command again once the storage answers"


def write_arrays(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "dataset.json").write_text("{}")
    for name in ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices"):
        np.save(folder / f"all__{name}.npy", np.zeros((7, 3), np.int32))


def test_data_sets_that_are_there(tmp_path):
    write_arrays(tmp_path / "arrays/train")
    table = tmp_path / "tables/train.csv"
    table.parent.mkdir()
    table.write_text("source,question,answer,rating\na,1.,12,0\nb,.1,21,0\n")
    details = [
        check.detail for path in (table, table.parent, tmp_path / "arrays") for check in data(Subject(data=str(path)))
    ]
    assert [detail.partition(": ")[2] for detail in details] == [
        "CSV, 2 puzzles",
        "train.csv 2 puzzles",
        "train arrays, 7 examples",
    ]


@pytest.mark.parametrize("damage", ["absent", "empty folder", "no header", "binary", "array missing", "array cut"])
def test_data_sets_that_are_not(damage, tmp_path):
    path = tmp_path / "data"
    if damage == "empty folder":
        path.mkdir()
    elif damage == "no header":
        path.write_text("a,1.,12,0\n")
    elif damage == "binary":
        path.write_bytes(b"question,answer\n\xff\x00\xfe")
    elif damage.startswith("array"):
        write_arrays(path / "train")
        labels = path / "train/all__labels.npy"
        labels.unlink() if damage == "array missing" else labels.write_bytes(labels.read_bytes()[:-1])
    (check,) = data(Subject(data=str(path)))
    assert check.status == "fail"
    assert str(path) in check.detail
    assert check.remedy == f"trm data sudoku build --output-dir {path}"


def write(root: Path, name: str, text: str = "") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_finds_nvidia_hardware_in_the_file_system(tmp_path):
    assert (nvidia_gpus(tmp_path), nvidia_driver(tmp_path)) == (0, None)
    for node in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        write(tmp_path, f"dev/{node}")
    versions = "NVRM version: NVIDIA UNIX {}x86_64 Kernel Module  {}  Tue Jan 1\nGCC version: gcc 12.2.0\n"
    for build, version in (("", "570.133.20"), ("Open ", "580.65.06")):
        write(tmp_path, "proc/driver/nvidia/version", versions.format(build, version))
        assert (nvidia_gpus(tmp_path), nvidia_driver(tmp_path)) == (2, int(version[:3]))
    open_module = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  595.58.03  Release Build\n"
    write(tmp_path, "proc/driver/nvidia/version", open_module)
    assert nvidia_driver(tmp_path) == 595


def test_finds_tpus_and_takes_no_network_card_for_one(tmp_path):
    for slot, (vendor, device) in enumerate([("0x1ae0", "0x0042"), ("0x8086", "0x005e")]):
        write(tmp_path, f"sys/bus/pci/devices/{slot}/vendor", vendor + "\n")
        write(tmp_path, f"sys/bus/pci/devices/{slot}/device", device + "\n")
    assert tpu_chips(tmp_path) == 0
    for slot in range(4):
        write(tmp_path, f"sys/bus/pci/devices/tpu{slot}/vendor", "0x1ae0\n")
        write(tmp_path, f"sys/bus/pci/devices/tpu{slot}/device", "0x005e\n")
    assert tpu_chips(tmp_path) == 4


def test_says_when_hardware_goes_unused(tmp_path):
    """A machine that shows an old driver, a GPU and a TPU, under a JAX that is held to the CPU."""
    write(tmp_path, "dev/nvidia0")
    write(tmp_path, "dev/accel0")
    write(
        tmp_path,
        "proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.14  x\n",
    )
    subject = Subject(root=tmp_path, environ={**os.environ, "JAX_PLATFORMS": "cpu"})
    gpu, tpu = accelerators(subject)
    assert (gpu.status, tpu.status) == ("warn", "warn")
    assert "driver 550" in gpu.detail
    assert gpu.remedy.endswith("'jax[cuda12]'") or gpu.remedy == "unset JAX_PLATFORMS"
    assert tpu.remedy.endswith("'jax[tpu]'") or tpu.remedy == "unset JAX_PLATFORMS"


def test_says_why_hardware_goes_unused():
    def reason(used=False, plugin=True, platforms=""):
        check = overlooked("gpu", "GPU", used, plugin, platforms, "'jax[cuda13]'")
        return check.status, check.remedy.partition("   #")[0]

    assert reason(used=True) == ("ok", "")
    assert reason(plugin=False) == ("warn", f"{sys.executable} -m pip install 'jax[cuda13]'")
    assert reason(platforms="cpu") == ("warn", "unset JAX_PLATFORMS")
    assert reason(platforms="cuda,cpu") == ("fail", "JAX_PLATFORMS=cuda trm doctor")
    assert reason() == ("fail", "JAX_PLATFORMS=cuda trm doctor")


def test_a_driver_without_a_gpu_is_told(tmp_path):
    write(
        tmp_path,
        "proc/driver/nvidia/version",
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  x\n",
    )
    (check,) = accelerators(Subject(root=tmp_path))
    assert check.status == "warn" and "docker run --gpus all" in check.remedy


@pytest.mark.parametrize(
    "device",
    [
        Device("cuda:0", "gpu", "H200", failure="XlaRuntimeError: RESOURCE_EXHAUSTED"),
        Device("cuda:0", "gpu", "H200", error=1e-2),
        Device("cuda:0", "gpu", "H200", error=math.nan),
    ],
)
def test_a_device_that_computes_wrongly_is_named(device):
    sound = Device("cpu:0", "cpu", "cpu", error=1e-7)
    assert [check.status for check in judge([sound])] == ["ok"]
    (check,) = judge([sound, device])
    assert (check.name, check.status) == ("device cuda:0", "fail")


def test_the_limit_of_a_container_counts_as_its_memory(tmp_path):
    (free,) = memory(Subject(root=tmp_path))
    write(tmp_path, "sys/fs/cgroup/memory.max", "max\n")
    assert list(memory(Subject(root=tmp_path))) == [free]
    write(tmp_path, "sys/fs/cgroup/memory.max", f"{2**30}\n")
    (limited,) = memory(Subject(root=tmp_path))
    assert limited.status == "warn" and limited.detail.startswith("1.0 GiB (limit of the container)")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--device-timeout", "0"],
        ["--device-timeout", "soon"],
        ["--coordinator", "host"],
        ["--coordinator", "host:0"],
        ["--coordinator", "::1"],
        ["--coordinator", "h:²"],
        ["--nonsense"],
    ],
)
def test_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["doctor", *arguments])
    assert stop.value.code == 2
    assert arguments[-1] in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--set", "seed=1"], "--set changes an experiment; name it"),
        (["demoo"], "no experiment and no group matches 'demoo'. Did you mean demo"),
        (["--dry-run"], "--dry-run goes with --pod"),
        (["--type", "v4-64"], "--type goes with --pod"),
    ],
)
def test_arguments_that_do_not_go_together(refused, arguments, said):
    assert said in refused("doctor", *arguments)
