"""Golden files of test-time training, and grids as they are written there."""

import json
import math
import random
import shutil

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from trm_jax.language import peft, weights
from trm_jax.models import decoder
from trm_jax.solvers import run
from trm_jax.tasks.arc.grids import Pair


@pytest.fixture(scope="session")
def golden(golden_folder):
    """golden(name): what a golden JSON file of test-time training holds."""
    return lambda name: json.loads((golden_folder / "ttt" / f"{name}.json").read_text())


def grid_of(rows) -> np.ndarray:
    """A grid of rows of digits, or of lists of numbers."""
    return np.array([[int(cell) for cell in row] for row in rows], np.uint8)


def pairs_of(pairs) -> tuple[Pair, ...]:
    return tuple(Pair(grid_of(a), grid_of(b)) for a, b in pairs)


@pytest.fixture(scope="session")
def grid():
    return grid_of


@pytest.fixture(scope="session")
def pairs():
    return pairs_of


def kept_of(folder) -> dict:
    """What a run has kept, by its path: adapters to the bit, and what is said of each task but for its seconds."""
    files = {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    said = {path: json.loads(data) for path, data in files.items() if path.parent.name == run.RECORDS}
    lines = {
        path: [json.loads(line) for line in data.splitlines()]
        for path, data in files.items()
        if path.suffix == ".jsonl"
    }
    lines = {path: [{**one, "seconds": None, "member": None} for one in some] for path, some in lines.items()}
    return files | lines | {path: {**record, "seconds": None} for path, record in said.items()}


@pytest.fixture(scope="session")
def kept():
    return kept_of


class Killed(BaseException):
    """Nothing that is told to the program: it ends where it is."""


@pytest.fixture
def check_killed(tmp_path, monkeypatch):
    """check_killed(solver, questions, at_once): a run that dies at random moments, as it looks at the clock or before
    and after a file is written, and is begun anew each time keeps what one keeps that does not; how often it died."""

    left = [math.inf]  # moments to live

    def look() -> bool:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return False

    def write(path, data, whole=run.write_whole):
        look()
        whole(path, data)
        look()

    def answer(folder, solver, questions, at_once, moments) -> float:
        left[0] = moments
        for _ in run.answer(folder, questions, solver, at_once, lambda n: run.Watch(1e6, look), "tiny"):
            pass
        return moments - left[0]

    def check(solver, questions, at_once: int) -> int:
        monkeypatch.setattr(run, "write_whole", write)
        monkeypatch.setattr(peft, "write_whole", write)
        whole = int(answer(tmp_path / "whole", solver, questions, at_once, 1e6))
        deaths = 0
        for moments in [*sorted(random.Random(0).sample(range(whole), 4)), math.inf]:
            try:
                answer(tmp_path / "killed", solver, questions, at_once, moments)
            except Killed:
                deaths += 1
        assert kept_of(tmp_path / "killed") == kept_of(tmp_path / "whole")
        return deaths

    return check


@pytest.fixture(scope="session")
def tiny_model(golden_folder, tmp_path_factory):
    """The folder of a model of random weights, with the tokenizer and the template of a golden one."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(golden_folder / "llm" / "tokenizer_chatml", folder)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shape = {"vocab_size": 280, "hidden_size": 32, "layers": 1, "heads": 2, "kv_heads": 1, "head_dim": 16}
    cfg = decoder.Config(**shape, inner_size=32, rope_theta=1e4, qk_norm=True, tied=True)
    params = decoder.init(jax.random.key(3), cfg)
    params["embed"] *= 20  # so that one token is much likelier than the others
    tensors = {}
    for name, x in [(name, x) for name, x in params.items() if name != "layers"] + list(params["layers"].items()):
        for number, tensor in enumerate(weights.names_of(name, cfg.layers)):
            part = np.asarray(x if name in weights.TOP else x[number])
            tensors[tensor] = np.ascontiguousarray(part.T if part.ndim == 2 and name != "embed" else part)
    save_file(tensors, folder / "model.safetensors")
    return folder


CONFIG = {
    "model_type": "qwen3",
    "vocab_size": 280,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "hidden_act": "silu",
    "attention_bias": False,
    "torch_dtype": "float32",
    "eos_token_id": 4,
}
