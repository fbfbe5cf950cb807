"""What is kept quiet, and that nothing else is."""

import asyncio
import subprocess
import sys
import threading

PROGRAM = """
import asyncio, ctypes, sys, threading
from trm_jax.cli.quiet import drop_stray_tracebacks
drop_stray_tracebacks()

def report(error):  # as C code in a thread does
    sys.excepthook(type(error), error, None)

def in_a_thread(error):
    thread = threading.Thread(target=report, args=(error,))
    thread.start()
    thread.join()

in_a_thread(RuntimeError("Event loop is closed"))
in_a_thread(RuntimeError("something else"))
report(RuntimeError("Event loop is closed"))

async def ours():
    try:
        await asyncio.sleep(1)
    finally:
        raise ValueError("a coroutine of ours")

def abandon(filename):
    namespace = {"asyncio": asyncio}
    source = "async def f():\\n try:\\n  await asyncio.sleep(1)\\n finally:\\n  raise ValueError(%r)" % filename
    exec(compile(source, filename, "exec"), namespace)
    loop = asyncio.new_event_loop()
    coroutine = namespace["f"]()
    try:
        coroutine.send(None)
    finally:
        loop.close()

for filename in ("/lib/orbax/x.py", "/lib/other/x.py"):
    try:
        abandon(filename)
    except RuntimeError:  # no loop is running
        pass
raise RuntimeError("the end")
"""


def test_only_stray_tracebacks_are_dropped():
    result = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    said = [line for line in result.stderr.splitlines() if line.startswith(("RuntimeError", "ValueError"))]
    assert said[:2] == ["RuntimeError: something else", "RuntimeError: Event loop is closed"]
    assert said[-1] == "RuntimeError: the end"
    assert asyncio and threading
