"""What is kept quiet, and that nothing else is."""

import gc
import importlib.util
import logging
import os
import subprocess
import sys
import warnings
from types import SimpleNamespace

import pytest

from tests.processes import ROOT
from trm_jax.cli.streams import drop_stray_tracebacks, keep_libtpu_quiet


@pytest.fixture
def reported(monkeypatch):
    """Errors that nobody could catch and that are reported all the same."""
    errors = []
    monkeypatch.setattr(sys, "unraisablehook", lambda ignored: errors.append(str(ignored.exc_value)))
    logger = logging.getLogger("asyncio")
    before = logger.level
    with warnings.catch_warnings():
        drop_stray_tracebacks()
        yield errors
    logger.setLevel(before)


def ignored(error: Exception, where=None) -> SimpleNamespace:
    return SimpleNamespace(exc_type=type(error), exc_value=error, exc_traceback=None, err_msg=None, object=where)


def test_late_callbacks_are_dropped_and_nothing_like_them(reported):
    sys.unraisablehook(ignored(RuntimeError("Event loop is closed")))
    sys.unraisablehook(ignored(RuntimeError("Event loop is open")))
    sys.unraisablehook(ignored(RuntimeError("Event loop is closed"), where=print))
    assert reported == ["Event loop is open", "Event loop is closed"]


@pytest.mark.parametrize("folder, dropped", [("/lib/orbax/checkpoint", True), ("/lib/ours", False)])
def test_abandoned_coroutines_of_orbax_are_dropped(reported, folder, dropped):
    """A coroutine that raises while it is thrown away, as Python itself reports it."""
    source = """
import types
@types.coroutine
def wait():
    yield
async def read():
    try:
        await wait()
    finally:
        raise ValueError("unread")
"""
    names = {}
    exec(compile(source, f"{folder}/x.py", "exec"), names)
    coroutine = names["read"]()
    coroutine.send(None)
    del coroutine
    gc.collect()
    assert reported == ([] if dropped else ["unread"])


@pytest.fixture
def libtpu_installed(tmp_path, monkeypatch):
    """A package of that name, found wherever Python looks for one."""
    (tmp_path / "packages").mkdir()
    (tmp_path / "packages" / "libtpu.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "packages")


def answers(root, **environ) -> dict:
    keep_libtpu_quiet(environ, root)
    return environ


def test_a_tpu_that_is_here_is_left_alone(libtpu_installed, tmp_path):
    said = answers(tmp_path, TPU_WORKER_HOSTNAMES="a,b")
    assert said["TPU_WORKER_HOSTNAMES"] == "a,b" and said["TPU_SKIP_MDS_QUERY"] == "1"
    for device in ("dev/accel0", "dev/vfio/0"):
        (tmp_path / device).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / device).touch()
        assert answers(tmp_path) == {}
        (tmp_path / device).unlink()


@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")
def test_libtpu_says_nothing_of_a_tpu_that_is_not_here():
    code = "from trm_jax.cli.streams import keep_libtpu_quiet as k; k(); import jax; print(jax.devices()[0].platform)"
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("TPU_", "JAX_PLATFORMS"))}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env={**environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("cpu\n", "")
