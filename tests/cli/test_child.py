"""A process of a sweep: its cores, its exit codes, and its end when the sweep is gone."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.processes import ROOT

AS_CHILD = [sys.executable, "-m", "trm_jax.cli.child"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
# A program error, a full disk that could not be reported any more, and a good end.
EVERY_END = """
import errno, json, os, sys
from trm_jax.cli import child, listing

def fails(error, stderr):
    def run(args):
        sys.stderr = stderr
        raise error
    return run

core, good, ends = sys.argv[1], listing.run_list, {}
for name, run in {
    "crash": fails(ValueError("a fault of the program"), sys.stderr),
    "full": fails(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), open("/dev/full", "w", buffering=1)),
    "good": good,
}.items():
    listing.run_list = run
    ends[name] = child.main([core, "list", "demo"])
print(json.dumps([ends, sorted(os.sched_getaffinity(0))]))
"""


def test_exit_codes_and_cores():
    core = max(os.sched_getaffinity(0))
    how = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
    with subprocess.Popen([sys.executable, "-c", EVERY_END, str(core)], **how) as process:
        out, err = process.stdout.read(), process.stderr.read()  # its standard input stays open
    ends, cores = json.loads(out.splitlines()[-1])
    assert ends == {"crash": 70, "full": 2, "good": 0} and cores == [core]
    assert "ValueError: a fault of the program" in err


@pytest.mark.parametrize("arguments, code", [(["--version"], 0), (["train"], 2)])
def test_what_the_command_line_says_is_the_exit_code(arguments, code):
    with subprocess.Popen([*AS_CHILD, "", *arguments], stdin=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.wait() == code


def test_it_ends_when_the_sweep_is_gone(tmp_path):
    """Here at once, before there is anything to save. (With a run that saves first: tests/sweep.)"""
    command = [*AS_CHILD, "", "train", "demo", "--workdir", str(tmp_path / "run")]
    assert subprocess.run(command, stdin=subprocess.DEVNULL, env=ENVIRONMENT).returncode == -signal.SIGTERM
    assert not (tmp_path / "run").exists()
