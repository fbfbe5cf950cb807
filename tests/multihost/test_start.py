"""Processes that should not train together do not."""

import signal

import pytest

from tests.multihost.fleet import Fleet, free_port
from trm_jax.distributed import multihost
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


def test_a_process_that_does_not_come(hosts, tmp_path):
    process = hosts.start_one(0, 2, free_port(), tmp_path / "run", None, "--startup-timeout", 1)
    [line] = refused(Fleet([process]), code=69)  # to be tried again: it may come the next time
    assert "of 2 processes, 1 did not come" in line


@pytest.mark.slow
def test_a_signal_while_they_wait(hosts, tmp_path):
    process = hosts.start_one(1, 2, free_port(), tmp_path / "run")
    process.until(lambda: "waiting for process 0" in process.printed())
    process.signal(signal.SIGTERM)
    [line] = refused(Fleet([process]), code=69)
    assert "was stopped before all 2 processes had come" in line


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
    for line in refused(hosts.start(3, tmp_path / "run")):
        assert "train.batch_size 8 is not divisible by the 3 devices" in line


def test_a_workdir_of_another_run(hosts, tmp_path):
    hosts.must_finish(1, tmp_path / "run", {"train.steps": 2})
    for line in refused(hosts.start(2, tmp_path / "run")):
        assert "holds another run: train.steps is 2 there and 12 here" in line


def test_cluster_as_told_by_the_environment():
    environ = {"TRM_COORDINATOR": "10.0.0.1", "TRM_PROCESSES": "8", "TRM_PROCESS": "0"}
    assert multihost.expected(environ)
    assert multihost.find(environ=environ) == multihost.Cluster("10.0.0.1:8476", 8, 0)
    assert multihost.find("10.0.0.2:9000", process=3, environ=environ) == multihost.Cluster("10.0.0.2:9000", 8, 3)


def test_a_coordinator_of_ipv6_and_its_port():
    assert multihost.find("[::1]", 2, 0, 9000, environ={}) == multihost.Cluster("[::1]:9000", 2, 0)
    assert multihost.find("h:9000", 2, 0, 9000, environ={}) == multihost.Cluster("h:9000", 2, 0)
    with pytest.raises(InputError, match=r"the coordinator is '::1'; .* \[::1\]:8476"):
        multihost.find("::1", 2, 0, environ={})
    with pytest.raises(InputError, match="--port 9000 and the coordinator h:9100 name two ports"):
        multihost.find("h:9100", 2, 0, 9000, environ={})


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
    assert multihost.expected(slurm)
    found = multihost.find(port=9000)
    assert found == multihost.Cluster("node03:9000", 4, 2, None)
    with pytest.raises(InputError, match="8 processes were expected and .* belongs to a cluster of 4"):
        multihost.find(processes=8)


def test_alone_there_is_no_cluster():
    assert not multihost.expected({})
    assert not multihost.expected({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"})
    with pytest.raises(InputError, match="belongs to no cluster .* --coordinator HOST:PORT"):
        multihost.find(environ={})
    assert not multihost.expected({"TRM_COORDINATOR": "h:1", "TRM_PROCESSES": "2", "TRM_ALONE": "1"})
    with pytest.raises(InputError, match="no process 2 among 2"):
        multihost.find("h:1", 2, 2, environ={})
    with pytest.raises(InputError, match="belong together"):
        multihost.find("h:1", environ={})
    for text in ("many", "²"):
        with pytest.raises(InputError, match=f"TRM_PROCESSES is '{text}'"):
            multihost.find(environ={"TRM_PROCESSES": text})


def test_sources_and_versions_are_compared():
    facts = multihost.program_facts({"TRM_COMMIT": "abc"})
    assert facts["commit"] == "abc" and facts["jax"] != "none" and len(facts["sources"]) == 12
