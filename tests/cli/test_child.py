"""A process of a sweep: its cores, its exit codes, and its end when the sweep is gone."""

import os
import signal
import subprocess
import sys

from tests.processes import ROOT

AS_CHILD = [sys.executable, "-m", "trm_jax.cli.child"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
VERSION_ON_CORES = """
import os, runpy, sys
sys.argv[1:] = ["--version"]
try:
    runpy.run_module("trm_jax.cli.child", run_name="__main__")
except SystemExit as end:
    print(end.code, sorted(os.sched_getaffinity(0)))
"""


def test_it_keeps_to_its_cores():
    core = max(os.sched_getaffinity(0))
    how = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT | {"TRM_CORES": str(core)})
    with subprocess.Popen([sys.executable, "-c", VERSION_ON_CORES], **how) as process:
        assert process.stdout.read().splitlines()[-1] == f"0 [{core}]"  # its standard input stays open


def test_what_the_command_line_says_is_the_exit_code():
    with subprocess.Popen([*AS_CHILD, "train"], stdin=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.wait() == 2


def test_it_ends_when_the_sweep_is_gone(tmp_path):
    """Here at once, before there is anything to save. (With a run that saves first: tests/sweep.)"""
    command = [*AS_CHILD, "train", "demo", "--workdir", str(tmp_path / "run")]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, env=ENVIRONMENT).returncode == -signal.SIGTERM
    assert not (tmp_path / "run").exists()
