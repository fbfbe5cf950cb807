"""What is kept quiet, and that nothing else is."""

import gc
import logging
import sys
import warnings
from types import SimpleNamespace

import pytest

from trm_jax.cli.quiet import drop_stray_tracebacks


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
