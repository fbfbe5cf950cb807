"""What is kept of compilations, what is said of those that fail."""

import dataclasses
import json
import shutil
import sys

import pytest

from tests import tiny
from tests.aot.conftest import RESULT
from trm_jax.aot import compile as aot
from trm_jax.aot import topologies
from trm_jax.aot.programs import Program
from trm_jax.errors import InputError

V4_8 = topologies.find("v4-8")
TRAIN = Program("train", (2, 2))


@pytest.fixture
def compiler(monkeypatch, tmp_path):
    """Run `script` as the process that compiles; `request` holds what it was asked for."""

    def use(script: str):
        lines = ["import json, os, sys", "request = json.load(sys.stdin)", script]
        monkeypatch.setattr(aot, "COMMAND", (sys.executable, "-c", "\n".join(lines)))

    return use


# In the store's files, without importing the package: that takes longer than the rest.
KEEPS = f"""
from pathlib import Path
root = Path(request["root"])
with open(root / "calls", "a") as calls:
    calls.write(request["program"][0] + " ")
for name, content in (("programs/program", {RESULT!r}), ("settings/" + request["settings"], {{"program": "program"}})):
    (root / name).parent.mkdir(exist_ok=True)
    (root / (name + ".json")).write_text(json.dumps(content))
print("noise")
print(json.dumps({{"cached": False}}))
"""


def test_nothing_is_compiled_twice(compiler, tmp_path):
    compiler(KEEPS)
    first = aot.compile_program(tiny.page(), V4_8, TRAIN, tmp_path)
    assert first.memory_bytes == RESULT["memory_bytes"] and not first.cached
    again = aot.compile_program(tiny.page(), V4_8, TRAIN, tmp_path)
    assert again.cached and dataclasses.replace(again, cached=False) == first
    assert (tmp_path / "calls").read_text() == "train "
    aot.compile_program(tiny.page({"optim.lr": 0.5}), V4_8, TRAIN, tmp_path)
    aot.compile_program(tiny.page(), topologies.find("v4-16"), TRAIN, tmp_path)
    assert (tmp_path / "calls").read_text() == "train train train "


def test_what_a_program_does_not_depend_on_is_no_part_of_its_key():
    def key(changes=None, topology="v4-8", program=TRAIN):
        return aot.settings_key(tiny.page(changes), topology, program)

    assert key({"log.every_steps": 5, "checkpoint.every_steps": 7, "name": "other", "seed": 3}) == key()
    others = [
        key({"model.L_cycles": 3}),
        key({"mesh.fsdp": 2}),
        key(topology="v4-16"),
        key(program=Program("eval", (2, 2))),
        key(program=Program("train", (3, 2))),
    ]
    assert len({key(), *others}) == 6


def test_what_reads_a_compiled_program_is_part_of_its_key(monkeypatch, tmp_path):
    """A result read by other code is another one; what only shows it is not."""
    package = shutil.copytree(aot.PACKAGE, tmp_path / "trm_jax", ignore=shutil.ignore_patterns("__pycache__"))

    def keys():
        aot.source_digest.cache_clear()
        return aot.settings_key(tiny.page(), "v4-8", TRAIN), aot.program_key("the lowered module", "v4-8")

    original = keys()
    monkeypatch.setattr(aot, "PACKAGE", package)
    assert keys() == original
    for name, (settings_stay, program_stays) in {
        "cli/compile.py": (True, True),
        "models/layers.py": (False, True),
        "aot/hlo.py": (False, False),
        "aot/compile.py": (False, False),
    }.items():
        before = keys()
        with open(package / name, "a") as file:
            file.write("# changed")
        settings, program = keys()
        assert (settings == before[0], program == before[1]) == (settings_stay, program_stays), name
    aot.source_digest.cache_clear()


def test_another_compiler_has_results_of_its_own(monkeypatch, remember, tmp_path):
    config = remember(RESULT)
    assert aot.find(config, V4_8, TRAIN, tmp_path)
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_some_flag=true")
    assert aot.find(config, V4_8, TRAIN, tmp_path) is None
    monkeypatch.delenv("LIBTPU_INIT_ARGS")
    monkeypatch.setattr(aot, "libtpu_version", lambda: "0.0.2")
    assert aot.find(config, V4_8, TRAIN, tmp_path) is None


def test_a_result_cut_short_is_none(remember, tmp_path):
    config = remember(RESULT)
    (tmp_path / "programs/program0.json").write_text('{"memory_bytes": {')
    assert aot.find(config, V4_8, TRAIN, tmp_path) is None


@pytest.mark.parametrize(
    "script, said",
    [
        ("print('F0101 Check failed: shape.rank() == 2', file=sys.stderr, flush=True); os.abort()",
         "the compiler was killed by SIGABRT: F0101 Check failed: shape.rank() == 2"),
        ("raise RuntimeError('no such chip')", "the compiler ended with code 1: RuntimeError: no such chip"),
        ("sys.exit(3)", "the compiler ended with code 3"),
        ("print('{}')", "the compiler ended with code 0"),
    ],
)  # fmt: skip
def test_a_compiler_that_dies_is_tried_again(compiler, tmp_path, script, said):
    compiler(script)
    assert aot.compile_program(tiny.page(), V4_8, TRAIN, tmp_path) == aot.Compiled(crash=said)
    compiler(KEEPS)
    assert aot.compile_program(tiny.page(), V4_8, TRAIN, tmp_path).memory_bytes


def test_the_process_that_compiles_takes_no_tpu(compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    kept = "JAX_PLATFORMS", "ALLOW_MULTIPLE_LIBTPU_LOAD", "TPU_SKIP_MDS_QUERY", "TPU_ACCELERATOR_TYPE"
    compiler(f"open(request['root'] + '/env', 'w').write(json.dumps([os.environ[k] for k in {kept}]))")
    aot.compile_program(tiny.page(), V4_8, TRAIN, tmp_path)
    assert json.loads((tmp_path / "env").read_text()) == ["cpu", "1", "1", "v4-8"]


@pytest.mark.parametrize(
    "message, sizes",
    [
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (512.00G) "
         "exceeds available HBM (30.75G).", (512 * 2**30, int(30.75 * 2**30))),
        ("XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 33.50G of 15.75G hbm. Exceeded "
         "hbm capacity by 17.75G.", (int(33.5 * 2**30), int(15.75 * 2**30))),
        ("Ran out of memory in memory space hbm. Used 512.0M of 256.0M hbm.", (2**29, 2**28)),
        ("Ran out of memory in memory space vmem. Used 33.50M of 16.00M vmem.", None),
        ("INTERNAL: something else", None),
    ],
)  # fmt: skip
def test_memory_that_is_too_small_is_told_from_other_errors(message, sizes):
    assert aot.overflow(message) == sizes


def test_without_libtpu_the_command_that_installs_it_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(aot, "libtpu_version", lambda: None)
    with pytest.raises(InputError, match=r"-m pip install 'jax\[tpu\]'"):
        aot.compile_program(tiny.page(), V4_8, TRAIN, tmp_path)
    assert aot.find(tiny.page(), V4_8, TRAIN, tmp_path) is None
