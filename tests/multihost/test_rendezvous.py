"""How processes find each other, and those that should not train together."""

import signal
import socket
import subprocess
import sys

import pytest

from tests import tiny
from tests.multihost.fleet import CHANGES, Fleet, free_port
from tests.processes import ROOT
from trm_jax.configs.workdir import claim
from trm_jax.distributed import rendezvous
from trm_jax.errors import InputError


def refused(fleet: Fleet, code: int = 2) -> list[str]:
    """Each process ends with this exit code and one line, which is given back."""
    results = fleet.wait()
    assert [result.code for result in results] == [code] * len(results), [r.err for r in results]
    for result in results:
        assert len(result.error_lines) == 1 and "Traceback" not in result.err, result.err
    return [result.error_lines[0] for result in results]


def test_a_process_of_another_experiment(hosts, tmp_path):
    port = free_port()
    fleet = Fleet(
        [
            hosts.start_one(0, 2, port, tmp_path / "run"),
            hosts.start_one(1, 2, port, tmp_path / "run", {"optim.lr": 0.5}),
        ]
    )
    for line in refused(fleet):
        assert "differ in optim.lr: 0.5 at process 1 (" in line and "the same command" in line


def test_a_process_that_does_not_come_is_named_and_one_that_comes_twice_too(hosts, tmp_path):
    port = free_port()
    fleet = Fleet([hosts.start_one(n, 3, port, tmp_path / "run", None, "--startup-timeout", 15) for n in (0, 1, 1)])
    first, *pair = fleet.wait()
    replaced, waiting = sorted(pair, key=lambda result: result.code)
    assert replaced.code == 2 and "another process has the number 1 too" in replaced.error_lines[0]
    for result in first, waiting:  # to be tried again: it may come the next time
        assert result.code == 69 and len(result.error_lines) == 1, result.err
        assert "of 3 processes, 2 did not come to 127.0.0.1:" in result.error_lines[0]


@pytest.mark.slow
def test_process_0_is_out_of_reach(hosts, tmp_path):
    process = hosts.start_one(1, 2, free_port(), tmp_path / "run", None, "--startup-timeout", 1)
    [line] = refused(Fleet([process]), code=69)
    assert "process 1 could not join process 0 at 127.0.0.1:" in line and "look at the log of process 0" in line


def test_a_port_that_is_taken(hosts, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        [line] = refused(Fleet([hosts.start_one(0, 2, port, tmp_path / "run")]), code=69)
    assert f"process 0 cannot listen at port {port}" in line


def test_a_signal_while_they_wait(hosts, tmp_path):
    process = hosts.start_one(1, 2, free_port(), tmp_path / "run")
    process.until(lambda: "waiting for all" in process.printed())
    process.signal(signal.SIGTERM)
    assert process.wait().code == -signal.SIGTERM


@pytest.mark.slow
def test_a_workdir_that_is_not_shared(hosts, tmp_path):
    """Each process has a folder of that name of its own, and both hold the same settings."""
    port, processes = free_port(), []
    for number in range(2):
        (tmp_path / str(number) / "run").mkdir(parents=True)
        processes.append(hosts.start_one(number, 2, port, "run", cwd=tmp_path / str(number)))
    for line in refused(Fleet(processes)):
        assert "run of process 1 (" in line and "is not that of process 0" in line


def test_a_batch_that_the_processes_cannot_share(hosts, tmp_path):
    for line in refused(hosts.start(2, tmp_path / "run", {"train.batch_size": 9})):
        assert "train.batch_size 9 is not divisible by the 2 devices" in line


ONE_FAILS = """
import sys
from trm_jax.cli.main import report_failure
from trm_jax.distributed.rendezvous import Cluster, join
from trm_jax.errors import InputError

with join(Cluster(sys.argv[1], 2, int(sys.argv[2])), 60, report_failure) as group:
    if group.index == 1:
        raise InputError("there are no puzzles here")
    group.gather("ready")
"""


def test_one_that_fails_alone_ends_the_others_with_its_line(tmp_path):
    command = [sys.executable, "-c", ONE_FAILS, f"127.0.0.1:{free_port()}"]
    processes = [subprocess.Popen([*command, str(n)], cwd=ROOT, stderr=subprocess.PIPE, text=True) for n in range(2)]
    waiting, failed = (process.communicate()[1] for process in processes)
    assert [process.returncode for process in processes] == [2, 2], (waiting, failed)
    assert failed.splitlines()[-1] == "error: there are no puzzles here"
    assert "error: process 1 (" in waiting and ") ended: there are no puzzles here" in waiting


def test_a_workdir_of_another_run(hosts, tmp_path):
    with claim(tmp_path / "run", tiny.page({**CHANGES, "train.steps": 2})):
        pass
    for line in refused(hosts.start(2, tmp_path / "run")):
        assert "holds another run: train.steps is 2 there and 12 here" in line


def test_cluster_as_told_by_the_environment(monkeypatch):
    for name, value in {"TRM_COORDINATOR": "10.0.0.1", "TRM_PROCESSES": "8", "TRM_PROCESS": "0"}.items():
        monkeypatch.setenv(name, value)
    assert rendezvous.expected()
    assert rendezvous.find() == rendezvous.Cluster("10.0.0.1:8476", 8, 0)
    assert rendezvous.find("10.0.0.2:9000", process=3) == rendezvous.Cluster("10.0.0.2:9000", 8, 3)
    monkeypatch.setenv("TRM_ALONE", "1")
    assert not rendezvous.expected()


def test_a_coordinator_of_ipv6_and_its_port():
    assert rendezvous.find("[::1]", 2, 0, 9000) == rendezvous.Cluster("[::1]:9000", 2, 0)
    assert rendezvous.find("h:9000", 2, 0, 9000) == rendezvous.Cluster("h:9000", 2, 0)
    with pytest.raises(InputError, match=r"the coordinator is '::1'; .* \[::1\]:8476"):
        rendezvous.find("::1", 2, 0)
    with pytest.raises(InputError, match="--port 9000 and the coordinator h:9100 name two ports"):
        rendezvous.find("h:9100", 2, 0, 9000)


def test_a_cluster_of_slurm_is_found(monkeypatch):
    slurm = {
        "SLURM_JOB_ID": "4242",
        "SLURM_STEP_NODELIST": "node[03-06]",
        "SLURM_STEP_NUM_TASKS": "4",
        "SLURM_NTASKS": "4",
        "SLURM_PROCID": "2",
        "SLURM_LOCALID": "0",
        "SLURM_STEP_TASKS_PER_NODE": "1(x4)",
    }
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert rendezvous.expected()
    found = rendezvous.find(port=9000)
    assert found == rendezvous.Cluster("node03:9000", 4, 2, None)
    with pytest.raises(InputError, match="8 processes were expected and .* belongs to a cluster of 4"):
        rendezvous.find(processes=8)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert not rendezvous.expected()
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "x")
    with pytest.raises(InputError, match="SLURM_STEP_NUM_TASKS is 'x'; it must be a whole number"):
        rendezvous.expected()


def test_a_cloud_tpu_that_does_not_say_how_many_it_has(monkeypatch):
    """Then no host may take itself for the only one; a chip without a metadata server is the only one."""
    asked = rendezvous.GceTpuCluster

    def unreachable():
        raise ConnectionError("metadata.google.internal")

    monkeypatch.setattr(asked, "is_env_present", unreachable)
    assert not rendezvous.expected()
    monkeypatch.setattr(asked, "is_env_present", lambda: True)
    monkeypatch.setattr(asked, "get_process_count", unreachable)
    with pytest.raises(ConnectionError):
        rendezvous.expected()
    monkeypatch.setattr(asked, "get_process_count", lambda: 8)
    assert rendezvous.expected()


def test_alone_there_is_no_cluster(monkeypatch):
    assert not rendezvous.expected()
    with pytest.raises(InputError, match="belongs to no cluster .* --coordinator HOST:PORT"):
        rendezvous.find()
    with pytest.raises(InputError, match="no process 2 among 2"):
        rendezvous.find("h:1", 2, 2)
    with pytest.raises(InputError, match="belong together"):
        rendezvous.find("h:1")
    for text in ("many", "²"):
        monkeypatch.setenv("TRM_PROCESSES", text)
        with pytest.raises(InputError, match=f"TRM_PROCESSES is '{text}'"):
            rendezvous.find()


@pytest.mark.parametrize(
    "address", ["10.0.0.1", ":80", "host:", "host:0", "host:65536", "host:port", "h:²", "::1", "[::1]"]
)
def test_an_address_without_host_or_port_is_refused(address):
    with pytest.raises(InputError, match=r"HOST:PORT, .* \[::1\]:8476"):
        rendezvous.endpoint(address)
