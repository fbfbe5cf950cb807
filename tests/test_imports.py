"""What importing the package costs, and that imports inside it go one way."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# Each part may import itself and the parts before its own line.
LAYERS = (
    ("errors",),
    ("named", "settings", "losses"),  # an InputError and jax alone
    ("storage",),
    ("models",),
    ("optim", "sharding", "compiler", "data"),
    ("tasks",),
    ("distributed",),
    ("evals",),  # scores models, whoever trained them; the training loop calls it
    ("language",),  # files and text of language models, how their answers are scored
    ("solvers",),  # from ARC tasks to predictions by language models
    ("train",),
    ("configs",),
    ("planning",),
    ("aot", "bench"),
    ("sweep",),
    ("reports",),  # of sweeps too: how many programs shared the machine
    ("cli",),
    ("__main__",),
    ("experiments",),
)
RANK = {part: rank for rank, parts in enumerate(LAYERS) for part in parts}


def in_fresh_python(statements: str):
    """What the statements print as JSON in an interpreter that has imported nothing yet."""
    done = subprocess.run([sys.executable, "-c", statements], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def modules_after(statement: str) -> set[str]:
    return set(in_fresh_python(f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"))


def sources():
    for folder in ("trm_jax", "experiments"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def module_of(path: Path) -> list[str]:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return parts[:-1] if parts[-1] == "__init__" else parts


def part_of(module: list[str]) -> str:
    """The part of the package that a dotted name lies in; "" for the package itself."""
    if module[0] == "experiments" or module[:2] == ["trm_jax", "experiments"]:
        return "experiments"
    return module[1] if len(module) > 1 else ""


def imported(path: Path):
    """(line, dotted name) of everything that a file imports from the project, wherever in it the import stands."""
    package = module_of(path) if path.name == "__init__.py" else module_of(path)[:-1]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            names = [alias.name.split(".") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            base = [*base, *(node.module or "").split(".")] if node.module else base
            names = [[*base, alias.name] for alias in node.names]
        else:
            continue
        for name in names:
            if name[0] in ("trm_jax", "experiments"):
                yield node.lineno, name


def test_every_part_has_its_place():
    found = {part_of(module_of(path)) for path in sources()} - {""}
    assert found <= RANK.keys(), f"give {sorted(found - RANK.keys())} a line in LAYERS"


@pytest.mark.parametrize("path", list(sources()), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    here = part_of(module_of(path))
    for line, name in imported(path):
        there = part_of(name)
        if there in RANK and there != here:
            assert here, f"{path}:{line}: the package itself imports {there}, so importing anything would"
            assert RANK[there] < RANK[here], f"{path}:{line}: {here} imports {there}"


def test_the_parser_of_imports_sees_every_form(tmp_path, monkeypatch):
    """The test above is worth what this function sees."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "trm_jax" / "models" / "a.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import os, trm_jax.cli.main\n"
        "from trm_jax import train\n"
        "from trm_jax.data import hub as h\n"
        "from . import b\n"
        "from ..evals.runner import think\n"
        "def f():\n    from experiments import demo\n"
    )
    names = [".".join(name) for _, name in imported(path)]
    assert names == [
        "trm_jax.cli.main",
        "trm_jax.train",
        "trm_jax.data.hub",
        "trm_jax.models.b",
        "trm_jax.evals.runner.think",
        "experiments.demo",
    ]
    assert part_of(module_of(path)) == "models"


def test_importing_the_models_is_cheap():
    """No device is touched, and nothing of config, data, training, checkpoints or pictures comes along."""
    touched = in_fresh_python(
        "import jax, trm_jax.models\nprint(str(jax._src.xla_bridge.backends_are_initialized()).lower())"
    )
    assert touched is False
    # Against a bare Flax: what Flax itself imports is not ours to leave out.
    public = "import trm_jax.models, trm_jax.models.convert.torch_format"
    extra = modules_after(public) - modules_after("import flax, optax")
    heavy = "ml_collections orbax grain numba matplotlib tensorboardX rich PIL torch safetensors huggingface_hub wandb"
    assert not {name.split(".")[0] for name in extra} & set(heavy.split())
    ours = {name.split(".")[1] for name in extra if name.startswith("trm_jax.")}
    assert ours == {"models", "errors", "storage", "losses", "named", "settings"}
    assert "trm_jax.models.linen" not in extra


def test_models_still_work_without_touching_a_device():
    """Shapes, counts and state-dict names are known without a backend."""
    touched = in_fresh_python(
        "import jax\n"
        "from trm_jax.models import TRMConfig, params, trm\n"
        "specs = trm.specs(TRMConfig(vocab_size=11, seq_len=81, mlp_t=True))\n"
        "assert params.count(specs['weights']) == 5028866\n"
        "params.abstract(specs)\n"
        "print(str(jax._src.xla_bridge.backends_are_initialized()).lower())"
    )
    assert touched is False


HOST_STATE = """
import json, logging, os, signal, sys, jax
from jax._src import monitoring
import flax, optax, orbax.checkpoint, grain, numba, ml_collections, gcsfs, scipy.stats, PIL.Image, rich.progress
import matplotlib.figure, tensorboardX, safetensors.numpy, huggingface_hub

def state():
    loggers = logging.root.manager.loggerDict.items()
    return {
        "log levels": {name: x.level for name, x in loggers if isinstance(x, logging.Logger) and x.level},
        "listeners": [len(monitoring.get_event_listeners()), len(monitoring.get_event_duration_listeners())],
        "signals": [str(signal.getsignal(n)) for n in (signal.SIGINT, signal.SIGTERM)],
        "environment": dict(os.environ),
        "hooks": [str(sys.unraisablehook), str(sys.excepthook)],
        "jax": {name: str(value) for name, value in jax.config.values.items()},
    }
"""


def test_importing_changes_nothing_in_the_host_program():
    """Whatever is imported of the package; what the libraries below it do at their import is theirs."""
    names = [".".join(module_of(p)) for p in sources() if part_of(module_of(p)) not in ("", "__main__", "experiments")]
    before, after = in_fresh_python(
        f"{HOST_STATE}\nbefore = state()\nimport {', '.join(names)}\nprint(json.dumps([before, state()]))"
    )
    assert after == before


def test_command_line_modules_do_not_import_jax():
    """`trm --help` and completion answer at once: commands import what they need when they run."""
    names = [".".join(module_of(p)) for p in sources() if part_of(module_of(p)) == "cli"]
    assert len(names) > 3
    loaded = modules_after("import " + ", ".join(names))
    assert not loaded & {"jax", "torch", "orbax", "grain", "numba", "matplotlib"}
