"""launch/gpu.sh, launch/local.sh and launch/slurm.sbatch: what they run, and what they find missing."""

import shlex
import signal
import sys

import pytest

from tests.launch.conftest import ROOT
from trm_jax.configs.registry import select
from trm_jax.sweep.plan import run_names

NVIDIA = """#!/bin/bash
[[ $* == -L ]] && for gpu in 0 1 2; do echo "GPU $gpu: H200 (UUID: GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a7$gpu)"; done
echo "  MIG 1g.18gb     Device  0: (UUID: MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f)"
"""
UUIDS = "GPU-5d5ba0d6-d33d-2b2c-524d-9e3d8d2b8a70,MIG-c6d4f1ef-42e4-5de3-91c7-45d71c87eb3f"


@pytest.fixture
def gpus(pod):
    """A machine with GPUs 0 to 2; `ran()`: JAX_PLATFORMS, order and names of the GPUs, what trm was given."""
    pod.program("bin/nvidia-smi", NVIDIA)
    pod.group("exp", "alpha", "beta")
    pod.ran = lambda: (pod.folder / "ran").read_bytes().decode().split("\0")[:-1]
    return pod


@pytest.mark.parametrize(
    ("argv", "named", "visible", "jobs"),
    [
        (["exp"], None, "PCI_BUS_ID 0,1,2", 2),
        (["one"], None, "PCI_BUS_ID 0,1,2", 1),
        (["exp", "--gpus", "1"], "2", "PCI_BUS_ID 1", 1),
        (["exp", "--gpus=2,0", "--jobs", "4"], None, "PCI_BUS_ID 2,0", 4),
        (["exp", "--gpus", UUIDS], None, f"PCI_BUS_ID {UUIDS}", 2),
        (["exp"], "1", " 1", 1),
        (["exp"], UUIDS, f" {UUIDS}", 2),
    ],
)
def test_a_sweep_on_the_gpus_asked_for(gpus, argv, named, visible, jobs):
    environ = {} if named is None else {"CUDA_VISIBLE_DEVICES": named}
    ended = gpus.launch(*argv, "--root", "a b", "--", "seed=1", "a=it's $HOME", script="gpu.sh", **environ)
    assert ended.code == 0, ended.err
    expected = ["", visible, "sweep", argv[0], "--root", "a b", "--jobs", str(jobs), "--set", "seed=1", "a=it's $HOME"]
    assert gpus.ran() == expected


def test_exit_codes_are_the_sweep_s(gpus):
    (gpus.folder / "code").write_text("75")
    assert gpus.launch("exp", script="gpu.sh").code == 75
    assert gpus.launch("exp", script="local.sh").code == 75


@pytest.mark.parametrize(
    ("nvidia_smi", "argv", "said"),
    [
        (None, ["one"], "there is no nvidia-smi"),
        (
            "#!/bin/sh\necho 'driver/library version mismatch'\necho more\nexit 9\n",
            ["one"],
            "nvidia-smi: driver/library version",
        ),
        (NVIDIA, ["one", "--gpus", "0,3"], "--gpus 0,3: there is no GPU 3, only 0,1,2"),
        (NVIDIA, ["one", "--gpus", ","], "--gpus ,: a GPU is missing beside a comma"),
        (NVIDIA, ["one", "--gpus", "1,"], "--gpus 1,: a GPU is missing beside a comma"),
        (NVIDIA, ["one", "--gpus", "0 1"], "there is no GPU 0 1, only 0,1,2"),
        (NVIDIA, ["one", "--gpus", "0,0"], "--gpus 0,0 names 0 twice"),
        (NVIDIA, ["one", "--gpus", "*"], "there is no GPU *, only 0,1,2"),
        (NVIDIA, ["one", "--gpus", "GPU-5d5b0000"], "nvidia-smi -L knows no GPU-5d5b0000"),
        (NVIDIA, ["one", "--gpus="], "--gpus wants a value"),
        (NVIDIA, ["one", "--slurm=1"], "--slurm takes no value"),
        (NVIDIA, ["one", "--jobs", "0"], "--jobs 0 is not a whole number"),
        (NVIDIA, ["one", "--slurm", "--gpus", "0,1"], "with --slurm give their number"),
        (NVIDIA, ["one", "--slurm"], "there is no sbatch"),
        (NVIDIA, ["nothing"], "no experiment nothing"),
        (NVIDIA, [], "name an experiment or a group"),
    ],
)
def test_what_is_missing_is_one_line(pod, nvidia_smi, argv, said):
    if nvidia_smi:
        pod.program("bin/nvidia-smi", nvidia_smi)
    ended = pod.launch(*argv, script="gpu.sh")
    assert ended.code == 2 and said in ended.err and len(ended.err.splitlines()) == 1
    assert not (pod.folder / "ran").exists()


def test_a_machine_whose_gpus_are_hidden(gpus):
    ended = gpus.launch("one", script="gpu.sh", CUDA_VISIBLE_DEVICES="")
    assert ended.code == 2 and ended.err == "error: CUDA_VISIBLE_DEVICES= names no GPU\n"


def test_a_jax_without_cuda_is_found(gpus):
    gpus.program("bin/python", "#!/bin/bash\n[[ $1 == -c ]] && exit 1\necho alpha\n")
    ended = gpus.launch("exp", script="gpu.sh")
    assert ended.code == 2 and "JAX has no CUDA here: " in ended.err and "pip install '.[gpu]'" in ended.err


def test_slurm_gets_the_job(gpus):
    gpus.program("bin/sbatch", '#!/bin/bash\nprintf "%s\\0" "$@" >"$CLOUD/submitted"\n')
    asked = ("exp", "--slurm", "--gpus", "4", "--sbatch", "--time=8:00:00", "--", "a=it's $HOME")
    dry = gpus.launch("--dry-run", *asked, script="gpu.sh")
    assert dry.code == 0 and not (gpus.folder / "submitted").exists()
    ended = gpus.launch(*asked, script="gpu.sh")
    assert ended.code == 0 and ended.err.startswith("next: squeue")
    submitted = (gpus.folder / "submitted").read_text().split("\0")[:-1]
    assert ["sbatch", *submitted] == shlex.split(dry.out.splitlines()[-1])
    assert submitted[:4] == ["--job-name=trm-exp", "--gres=gpu:4", "--output=runs/slurm-%j.log", "--time=8:00:00"]
    assert submitted[4:7] == [
        f"{gpus.repository}/launch/slurm.sbatch",
        str(gpus.repository),
        gpus.environ["TRM_PYTHON"],
    ]
    assert submitted[7:] == ["sweep", "exp", "--root", "runs", "--jobs", "2", "--set", "a=it's $HOME"]


@pytest.mark.parametrize(
    ("sent", "code", "requeued"),
    [
        (signal.SIGUSR1, 75, True),  # the time is up
        (signal.SIGTERM, 75, False),  # scancel: it must not come back
        (signal.SIGUSR1, 1, False),
        (None, 75, False),
        (None, 0, False),
    ],
)
def test_a_job_whose_time_is_up_queues_again(pod, sent, code, requeued):
    pod.program("bin/scontrol", '#!/bin/sh\necho "$@" >"$CLOUD/scontrol"\n')
    wait = "touch $CLOUD/begun; while :; do sleep 0.02; done" if sent else ""
    pod.program("bin/python", f"#!/bin/bash\ntrap 'sleep 0.1; exit {code}' TERM\n{wait}\nexit {code}\n")
    process = pod.start(
        str(pod.repository), str(pod.folder / "bin/python"), "sweep", "exp", script="slurm.sbatch", SLURM_JOB_ID="12"
    )
    if sent:
        pod.until((pod.folder / "begun").exists)
        process.send_signal(sent)
    assert pod.end(process).code == code
    assert (pod.folder / "scontrol").exists() == requeued
    if requeued:
        assert (pod.folder / "scontrol").read_text() == "requeue 12\n"


def test_local_is_a_sweep_of_shrunk_runs_on_the_cpu(gpus):
    ended = gpus.launch("exp", "--root", "a b", "--jobs=2", "--", "a=it's $HOME", script="local.sh")
    assert ended.code == 0, ended.err
    expected = ["cpu", " ", "sweep", "exp", "--local", "--root", "a b", "--jobs", "2", "--set", "a=it's $HOME"]
    assert gpus.ran() == expected


def test_local_makes_the_environment_where_there_is_none(pod):
    ended = pod.launch("exp", "--dry-run", script="local.sh", TRM_PYTHON="")
    make, sweep = (shlex.split(line) for line in ended.out.splitlines())
    assert make == ["make", "-s", "-C", str(pod.repository), "install"]
    assert sweep[3:7] == [f"{pod.repository}/.venv/bin/python", "-m", "trm_jax", "sweep"]


@pytest.mark.parametrize("script", ["tpu_pod.sh", "gpu.sh", "local.sh"])
def test_help_has_examples_that_are_understood(pod, script):
    ended = pod.launch("--help", script=script)
    examples = [line.strip() for line in ended.out.splitlines() if line.startswith(f"  launch/{script} ")]
    assert ended.code == 0 and examples and "Exit codes" in ended.out
    for name in ("exp02a", "exp02a_01", "baseline_768"):
        pod.group(name, name)
    for example in examples:
        _, *argv = shlex.split(example)
        if "--gpus" in argv and "--slurm" not in argv:
            pod.program("bin/nvidia-smi", NVIDIA.replace("0 1 2", "0 1 2 3"))
        ended = pod.launch("--dry-run", *argv, script=script)
        assert ended.code == 0, (example, ended.err)


def test_the_experiments_are_those_of_trm(pod):
    """Everywhere else a stand-in for Python lists them."""
    pod.repository = ROOT
    asked = ("exp02a", "--slurm", "--gpus", "100", "--dry-run", "--", "optim.lr=1e-3")
    ended = pod.launch(*asked, script="gpu.sh", TRM_PYTHON=sys.executable)
    runs = len(run_names(select(["exp02a"])))
    assert ended.code == 0 and f"--jobs {runs} --set optim.lr=1e-3" in ended.out
