"""Rescoring a pool of candidates by a language model, on a tiny decoder of random weights and 16 tokens."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trm_jax.cli.main import main
from trm_jax.models import decoder
from trm_jax.solvers import generator, run
from trm_jax.solvers.nvarc import text, vocabulary
from trm_jax.tasks.arc import files
from trm_jax.tasks.arc.predictions import Header, Line, Member, read, writing

CFG = decoder.Config(16, 16, 1, 2, 1, 8, 16, rope_theta=1e4, qk_norm=True, tied=True)
GRIDS = [[[1, 2]], [[3]], [[4, 4]]]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    params = jax.jit(decoder.init, static_argnums=1)(jax.random.key(2), CFG)
    vocabulary.write(folder, CFG, params)
    return folder, params


@pytest.fixture
def tasks(tmp_path):
    folder = tmp_path / "set"
    folder.mkdir()
    pair = {"input": [[1, 2]], "output": [[2, 1]]}
    for name, asked in (("a", [[3, 4]]), ("b", [[1] * 30] * 30)):
        said = {"train": [pair, {"input": [[5]], "output": [[5]]}], "test": [{"input": asked}]}
        (folder / f"{name}.json").write_text(json.dumps(said))
    return folder


def member(path, tasks, grids) -> str:
    head = Header(Member(path.stem, "external"), "set", files.digest(files.read_tasks(tasks)), "rank")
    with writing(path, head) as writer:
        for task in "ab":
            for grid in grids:
                writer.line(Line(task, 0, np.array(grid, np.uint8)))
    return f"{path.stem}={path}"


def cost(params, task, grid) -> float:
    """The mean over eight views of what a grid costs behind its prompt, a token at a time."""
    found, forward = [], jax.jit(decoder.forward, static_argnums=1)
    for view in text.views(generator(0, task.id, "score 0"), len(task.train), 1):
        prompt = text.prompt(task.train, task.test[0].input, view).tolist()
        reply = text.reply(view.apply(np.array(grid, np.uint8)))
        tokens = jnp.array([[*prompt, *reply]])
        log_p = jax.nn.log_softmax(forward(params, CFG, tokens)[0])
        found.append(-sum(float(log_p[len(prompt) - 1 + n, token]) for n, token in enumerate(reply)))
    return float(np.mean(found))


def test_a_pool_is_ranked_by_members_and_likelihood(model, tasks, tmp_path, capsys):
    """count - mean NLL over the pool; the same command reads what was scored; what does not fit is voted on."""
    folder, params = model
    given = member(tmp_path / "x.jsonl", tasks, GRIDS), member(tmp_path / "y.jsonl", tasks, [GRIDS[2]])
    words = ["ensemble", *given, "--data", str(tasks), "--mode", "rescore", "--scorer", str(folder)]
    words += ["--output", str(tmp_path / "r.json")]
    (folder / "config.json").write_text(
        json.dumps(json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 1000})
    )
    assert main(words) == 0, capsys.readouterr().err
    lines = [line for line in read(tmp_path / "r.predictions.jsonl")[1] if line.grid is not None]
    found = {json.dumps(line.grid.tolist()): line.weight for line in lines if line.task == "a"}
    task = files.read_tasks(tasks)["a"]
    scores = [count - cost(params, task, grid) for count, grid in zip((1, 1, 2), GRIDS, strict=True)]
    shares = np.exp(scores) / np.exp(scores).sum()
    expected = {json.dumps(grid): share for grid, share in zip(GRIDS, shares, strict=True)}
    assert found == pytest.approx(expected, rel=1e-4)  # float32 sums of some dozens of tokens
    assert [*found] == sorted(found, key=lambda grid: -found[grid])
    long = [(line.grid.tolist(), line.weight) for line in lines if line.task == "b"]
    assert long[0] == (GRIDS[2], pytest.approx((1 + 2 / 11) / 2)) and "test 0 is not asked" in capsys.readouterr().err

    scored = tmp_path / "r.scores" / run.RECORDS
    before = (scored / "b.json").stat().st_mtime_ns
    (scored / "a.json").unlink()
    assert main([*words, "--force"]) == 0
    again = [line for line in read(tmp_path / "r.predictions.jsonl")[1] if line.grid is not None]
    assert [(x.grid.tolist(), x.weight) for x in again] == [(x.grid.tolist(), x.weight) for x in lines]
    assert (scored / "b.json").stat().st_mtime_ns == before
