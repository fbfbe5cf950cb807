"""What is kept of compilations, what is said of those that fail."""

import json
import shutil
import sys

import jax
import jax.numpy as jnp
import pytest

from tests import tiny
from tests.aot.conftest import RESULT, pretend_libtpu
from trm_jax.aot import compile as aot
from trm_jax.planning import hardware

V4_8 = hardware.find_slice("v4-8")


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Run `script` as the process that compiles; `request` holds what it was asked for."""

    def use(script: str):
        lines = ["import json, os, sys", "request = json.load(sys.stdin)", script]
        monkeypatch.setattr(aot, "COMMAND", (sys.executable, "-c", "\n".join(lines)))
        return aot.compile_program(tiny.page(), V4_8, 0, tmp_path)

    return use


@pytest.fixture
def traced():
    """A traced program that counts how often it is compiled."""

    class Traced:
        def __init__(self, factor: float):
            self.lowered, self.compiled = jax.jit(lambda x: factor * x @ x).lower(jnp.ones((8, 8))), 0

        def as_text(self):
            return self.lowered.as_text()

        def compile(self):
            self.compiled += 1
            return self.lowered.compile()

    return Traced


def test_nothing_is_compiled_twice(traced, tmp_path, monkeypatch):
    program = traced(2.0)
    first = aot.compile_lowered(program, V4_8, tmp_path)
    assert first.keys() == aot.NOTHING.keys() and first["memory_bytes"]["arguments"] == 8 * 8 * 4
    assert aot.compile_lowered(program, V4_8, tmp_path) == first and program.compiled == 1
    same = traced(2.0)
    assert aot.compile_lowered(same, V4_8, tmp_path) == first and same.compiled == 0
    other = traced(3.0)
    aot.compile_lowered(other, V4_8, tmp_path)
    assert other.compiled == 1
    aot.compile_lowered(program, hardware.find_slice("v4-16"), tmp_path)
    assert program.compiled == 2
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_some_flag=true")
    aot.compile_lowered(program, V4_8, tmp_path)
    pretend_libtpu(monkeypatch, "0.0.2")
    aot.compile_lowered(program, V4_8, tmp_path)
    assert program.compiled == 4


def test_what_reads_a_compiled_program_is_part_of_its_key(traced, tmp_path, monkeypatch):
    program = traced(2.0)
    aot.compile_lowered(program, V4_8, tmp_path)
    monkeypatch.setattr(aot.hlo, "__file__", shutil.copy(aot.hlo.__file__, tmp_path / "hlo.py"))
    aot.compile_lowered(program, V4_8, tmp_path)
    assert program.compiled == 1
    with open(tmp_path / "hlo.py", "a") as file:
        file.write("# changed")
    aot.compile_lowered(program, V4_8, tmp_path)
    assert program.compiled == 2


def test_a_result_cut_short_is_none(traced, tmp_path):
    program = traced(2.0)
    first = aot.compile_lowered(program, V4_8, tmp_path)
    [file] = tmp_path.iterdir()
    file.write_text('{"memory_bytes": {')
    assert aot.compile_lowered(program, V4_8, tmp_path) == first and program.compiled == 2


def test_memory_that_is_too_small_stays_too_small(traced, tmp_path):
    class Large(traced):
        def compile(self):
            self.compiled += 1
            raise jax.errors.JaxRuntimeError("Ran out of memory in memory space hbm. Used 512.0M of 256.0M hbm.")

    program = Large(2.0)
    for _ in range(2):
        assert aot.compile_lowered(program, V4_8, tmp_path)["overflow_bytes"] == [2**29, 2**28]
    assert program.compiled == 1


@pytest.mark.parametrize(
    "script, said",
    [
        ("print('F0101 Check failed: shape.rank() == 2', file=sys.stderr, flush=True); os.abort()",
         "the compiler was killed by SIGABRT: F0101 Check failed: shape.rank() == 2"),
        ("raise RuntimeError('no such chip')", "the compiler ended with code 1: RuntimeError: no such chip"),
        ("sys.exit(3)", "the compiler ended with code 3"),
    ],
)  # fmt: skip
def test_a_compiler_that_dies_is_a_result(compiler, script, said):
    assert compiler(script) == {**aot.NOTHING, "crash": said}


def test_the_process_that_compiles_takes_no_tpu(compiler, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    kept = "JAX_PLATFORMS", "ALLOW_MULTIPLE_LIBTPU_LOAD", "TPU_SKIP_MDS_QUERY", "TPU_ACCELERATOR_TYPE"
    script = f"print('noise')\nprint(json.dumps([{RESULT!r}, [os.environ[name] for name in {kept}]]))"
    assert compiler(script) == [json.loads(json.dumps(RESULT)), ["cpu", "1", "1", "v4-8"]]


@pytest.mark.parametrize(
    "message, sizes",
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (512.00G) "
         "exceeds available HBM (30.75G).", [512 * 2**30, int(30.75 * 2**30)]),
        ("XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 33.50G of 15.75G hbm. Exceeded "
         "hbm capacity by 17.75G.", [int(33.5 * 2**30), int(15.75 * 2**30)]),
        ("Ran out of memory in memory space hbm. Used 512.0M of 256.0M hbm.", [2**29, 2**28]),
        ("Ran out of memory in memory space vmem. Used 33.50M of 16.00M vmem.", None),
        ("INTERNAL: something else", None),
    ],
)  # fmt: skip
def test_memory_that_is_too_small_is_told_from_other_errors(message, sizes):
    assert aot.overflow(message) == sizes
