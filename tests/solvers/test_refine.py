"""`trm refine`: scores, groups and trees of the goldens, and searches from a script to predictions."""

import itertools
import json
import shlex
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chat_server import Server, completion
from tests.solvers.conftest import grid_of
from trm_jax.cli.main import main
from trm_jax.language import remote
from trm_jax.solvers import question, run
from trm_jax.solvers.refine import coders, sandbox, score, search, solve
from trm_jax.tasks.arc.files import task_from
from trm_jax.tasks.arc.predictions import ranked, read


@pytest.fixture(scope="module")
def ensemble(golden_folder):
    return lambda name: json.loads((golden_folder / "ensemble" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def scripted(ensemble):
    """The task of the scripts."""
    return question(task_from("script", "scripted", ensemble("refine")["task"]))


def result(number, code, shown, truth, answers) -> score.Solution:
    shown = tuple(None if one is None else grid_of(one) for one in shown)
    scores = tuple(score.accuracy(grid, grid_of(right)) for grid, right in zip(shown, truth, strict=True))
    return score.Solution(number, code, shown, (None,) * len(shown), scores, tuple(answers))


def test_soft_scores(ensemble):
    for case in ensemble("poetiq_soft_score")["cases"]:
        grid, why = sandbox.grid_of(json.loads(case["output"]))
        found, expected = score.accuracy(grid, grid_of(case["truth"])), case["expected"]
        assert (found == 1.0, found) == (expected["success"], expected["score"]), case["name"]
        assert (why is None) == (expected["why_invalid"] in (None, "shape")), case["name"]


def test_what_a_program_forges_ends_nothing():
    """Lists without end as an answer, and an end of its own making."""
    deep = []
    for _ in range(50_000):
        deep = [deep]
    assert sandbox.grid_of([deep]) == (None, "not a grid: its lists are too deep")
    assert sandbox._ran(b'{"end": "signal", "number": []}', b"", None, 1, 0.0).errors == (
        "ended by [] before it answered",
    )


def test_groups(ensemble):
    for case in ensemble("poetiq_groups")["cases"]:
        results = []
        for number, one in enumerate(case["experts"]):
            outputs = [json.loads(text) if text.startswith("[") else None for text in one["test_outputs"]]
            answers = tuple(sandbox.grid_of(output)[0] for output in outputs)
            results.append(score.Solution(number, str(number), (), (), tuple(one["train_soft_scores"]), answers))
        order = score.grouped(results)
        assert order == case["reference"]["order"], case["name"]
        found = score.candidates([results[at] for at in order])
        expected = [[grid_of(grid).tolist() for grid in pair if grid] for pair in case["expected_attempts"]]
        assert [[grid.tolist() for grid in grids[:2]] for grids in found] == expected, case["name"]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=8), st.randoms())
def test_which_answers_groups_give_hangs_on_no_order(experts, random):
    """Where no two groups are alike in size and score; each result stands in the order once."""
    made = [
        score.Solution(at, "", (), (), (1.0,) if solved else (0.1 * answer,), (np.array([[answer]]),))
        for at, (solved, answer) in enumerate(experts)
    ]
    sizes = [sum(one.answers[0][0, 0] == answer for one in made) for answer in range(4)]
    shuffled = random.sample(made, len(made))
    for results in (made, shuffled):
        assert sorted(score.grouped(results)) == list(range(len(made)))
    if len(set(sizes)) == 4:
        one, other = (score.candidates([some[at] for at in score.grouped(some)])[0] for some in (made, shuffled))
        assert [grid.tolist() for grid in one] == [grid.tolist() for grid in other]


def test_the_order_of_a_tree(ensemble):
    case = ensemble("jerber_fitness")
    made = [
        result(at, one["code"], one["train_outputs"], case["train_truth"], [grid_of(one["test_output"])])
        for at, one in enumerate(case["candidates"])
    ]
    reference = case["reference"]
    fitness = [score.by_pairs(one) for one in made]
    assert np.allclose([f[0] for f in fitness], reference["train_accuracy"], atol=1e-12)
    assert np.allclose([f[1] for f in fitness], reference["mean_cell_accuracy"], atol=1e-12)
    order = sorted(made, key=score.by_pairs, reverse=True)
    # As the reference, but that of 0 and 1, alike in pairs, the one of more right cells comes first.
    assert [one.number for one in order] == [2, 7, 1, 0, 3, 4, 6, 5] and reference["order"] == [2, 7, 0, 1, 3, 4, 6, 5]
    assert [one.number for one in score.final_two(order)] == [2, 1]
    assert len([one for one in score.distinct(made) if one.solved]) == 1  # the reference stops at the same one twice


def test_scores_do_not_depend_on_the_order_of_demonstrations():
    """In floating point 0.1 + 0.2 + 0.3 depends on it, and the later of equals is kept."""
    made = [score.Solution(0, "", (), (), scores, ()) for scores in itertools.permutations((0.1, 0.2, 0.3))]
    assert len({one.score for one in made}) == 1


def test_programs_of_one_text_count_once_where_the_first_stands(scripted):
    """Programs that are equally good keep the order in which they came."""
    texts = ["a", "b", "a\n", "c"]
    made = [score.Solution(at, text, (), (), (1.0,), (np.full((1, 1), at),)) for at, text in enumerate(texts)]
    assert [one.number for one in score.distinct(made)] == [0, 1, 3]
    found = [(search.Ask("0.0", (), ()), one) for one in made[:3]]
    assert sorted(one.number for one in search.best_of_rounds(search.Settings(stop_after=3), found)) == [1, 2]


def test_feedback_and_numbers(scripted):
    """Shapes, cells and errors, by the demonstration's number, which a shuffled prompt does not change."""
    grids = [pair.output.copy() for pair in scripted.demonstrations]
    grids[0] = np.tile(grids[0], 2)
    grids[2][0, 0] = 9
    one = result(4, "CODE", grids, [pair.output for pair in scripted.demonstrations], [None])
    one = replace(one, errors=(None, None, None, "ZeroDivisionError"))
    said = score.feedback(one, scripted)
    assert "Example 1: wrong. The output is 4 rows x 10 columns and should be 4 rows x 5 columns." in said
    assert "Example 2: right.\nExample 3: wrong." in said and "\n9/0 3 0 0 7\n" in said and "right: 0.93" in said
    assert said.endswith("Test input 1: ZeroDivisionError")
    for order in ((0, 1, 2), (2, 0, 1)):
        text = search.prompt(scripted, search.Ask("0", (one,), order))
        places = [text.index(f"Example {at + 1}\nInput:\n") for at in order]
        assert places == sorted(places) and "Program 1\n```python\nCODE\n```\nExample 1: wrong" in text
        for at, pair in enumerate(scripted.demonstrations):
            assert f"Example {at + 1}\nInput:\n{search.rows(pair.input)}\nOutput:\n{search.rows(pair.output)}" in text
        assert f"Test input 1:\n{search.rows(scripted.inputs[0])}" in text and "Score: 0.64" in text


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        ("a ```python\nx\n``` b ```python\ny\n```", "x\n"),
        ("a```Python \r\nx\n```", "x\n"),
        ("```py\nx```", "x"),
        ("```C\ny\n``` ``` python3\nx\n```", "x\n"),
        ("```\nx\n```", None),
        ("```python\nx", None),
        ("python", None),
    ],
)
def test_the_first_closed_block_of_a_reply(reply, code):
    assert coders.program(reply) == code


def script(path, content, replies=None):
    path.write_text(json.dumps({**content, **({"responses": replies} if replies else {})}))
    return f"script:{path}"


def command(coder, workdir, *more):
    return ["refine", "--coder", coder, "--workdir", str(workdir), "--allow-code-execution", *more]


def replies(workdir, task="a") -> list[dict]:
    return [{"ask": name, **one} for name, one in solve.Journal(workdir, task).records.items()]


def program(body: str) -> str:
    return f"```python\nimport numpy as np\n\ndef transform(grid):\n    {body}\n```"


def test_a_script_is_refined_to_the_end(ensemble, tmp_path, capsys):
    """What is asked, shown, scored and answered; then again, without a reply asked for."""
    told, folder = ensemble("refine"), tmp_path / "run"
    asked = command(script(tmp_path / "a.json", told), folder)
    assert main(asked) == 0
    said = capsys.readouterr()
    assert "not a security boundary" in said.out and "files: " in said.out and "tasks        1: 1 ok" in said.out
    found = replies(folder)
    assert [one["outcome"] for one in found] == ["scored", "no_program", "scored", "solved"]
    for one, expected in zip(found, told["expected"], strict=True):
        if expected["outcome"] != "no_program":
            assert (one["score"], one["train_scores"]) == (expected["score"], expected["train_scores"])
    assert {f"iteration_{at}": one["shown"] for at, one in enumerate(found, 1)} == told["earlier_solutions_shown"]
    assert sorted(map(tuple, {json.dumps(one["order"]): one["order"] for one in found}.values()))[1:]  # it is shuffled
    header, _ = read(folder / run.PREDICTIONS)
    assert header.member.kind == "refine" and header.score_kind == "rank"
    [(key, answers)] = ranked([folder / run.PREDICTIONS])
    assert key == ("a", 0) and [one.grid.tolist() for one in answers] == told["test_outputs"]
    (folder / run.RECORDS / "a.json").unlink()
    assert main(asked) == 0 and replies(folder) == found
    assert f"calls {len(found)}" in capsys.readouterr().err
    (folder / run.RECORDS / "a.json").unlink()
    kept = folder / run.REPLIES / "a.jsonl"
    kept.write_bytes(kept.read_bytes()[:-20])  # as a kill may cut it
    assert main(asked) == 0
    assert [{**one, "seconds": None} for one in replies(folder)] == [{**one, "seconds": None} for one in found]


def test_hostile_programs_end_with_a_line_each(ensemble, tmp_path, capsys):
    """The endless one is in the tests of the sandbox too; here it may take two seconds."""
    told = ensemble("hostile")
    secret = tmp_path / "secret.json"
    task = told["task"]
    pairs = [[pair["input"], pair["output"]] for pair in task["train"]]
    secret.write_text(json.dumps([*pairs, [task["test"][0]["input"], told["test_outputs"][0]]]))
    served = Server()
    try:
        texts = [one.replace("@SECRET_FILE@", str(secret)) for one in told["responses"]]
        texts = [one.replace("@PORT@", str(served.server_port)) for one in texts]
        asked = command(script(tmp_path / "a.json", told, texts), tmp_path / "run", "--program-seconds", "2")
        began = time.monotonic()
        assert main(asked) == 0
        assert time.monotonic() - began < 60 and not served.requests
    finally:
        served.shutdown()
        served.server_close()
    found = replies(tmp_path / "run")
    for one, expected in zip(found, told["expected"], strict=True):
        allowed = [expected["outcome"]] if isinstance(expected["outcome"], str) else expected["outcome"]
        # On a busy machine what prints 100 MB may take longer than two seconds.
        assert one["outcome"] in [*allowed, *["timeout"] * (expected["program"] == "prints_100_MB")], expected[
            "program"
        ]
        assert one["seconds"] < 4 and len(one["printed"]) <= solve.PRINTED
    assert str(secret) in found[2]["errors"][0]
    err = capsys.readouterr().err
    assert all(f"a  {at}.0" in err for at in range(6))
    answers = [[one.grid.tolist() for one in grids] for _, grids in ranked([tmp_path / "run" / run.PREDICTIONS])]
    assert answers == [told["test_outputs"]]


FLIP, OTHER, WRONG = (
    program(body) for body in ("return np.fliplr(grid)", "return grid[:, ::-1]", "return grid * 0 + 5")
)


def test_two_programs_are_asked_for(ensemble, tmp_path):
    """The same text twice is one; then what solves all is shown, and another way is asked for."""
    coder = script(tmp_path / "a.json", ensemble("refine"), [WRONG, FLIP, FLIP, OTHER, WRONG])
    assert main(command(coder, tmp_path / "run", "--stop-after", "2")) == 0
    assert [one["outcome"] for one in replies(tmp_path / "run")] == ["scored", "solved", "solved", "solved"]
    assert replies(tmp_path / "run")[3]["shown"] == [0, 1, 2]


def test_experts_search_apart_and_vote(ensemble, tmp_path):
    """Two with other orders; each stops by itself, and the one that fails gives the second attempt."""
    coder = script(tmp_path / "a.json", ensemble("refine"), [WRONG, FLIP, WRONG, FLIP])
    assert main(command(coder, tmp_path / "run", "--experts", "2", "--rounds", "2")) == 0
    found = replies(tmp_path / "run")
    assert [one["ask"] for one in found] == ["0.0", "0.1", "1.0"] and found[2]["shown"] == [0]
    [(_, answers)] = ranked([tmp_path / "run" / run.PREDICTIONS])
    assert [one.grid.tolist() for one in answers] == [*ensemble("refine")["test_outputs"], [[5] * 6] * 2]


def test_budgets_and_what_is_left_of_them(ensemble, tmp_path, capsys):
    coder = script(tmp_path / "a.json", ensemble("refine"), [WRONG, WRONG, FLIP])
    for name, options in (("calls", ["--calls", "2"]), ("tokens", ["--token-budget", "300"])):
        assert main(command(coder, tmp_path / name, *options)) == 0
        said = capsys.readouterr()
        assert "1 partial" in said.out and f"{name} of" in said.err and "are used" in said.err
        assert len(replies(tmp_path / name)) == 2
        [(_, answers)] = ranked([tmp_path / name / run.PREDICTIONS])
        assert answers[0].grid.tolist() == [[5] * 6] * 2
    assert main(command(coder, tmp_path / "time", "--minutes", "0.0001")) == 0
    assert "0 s are over" in capsys.readouterr().err


def test_a_larger_budget_goes_on(ensemble, tmp_path, capsys):
    """What was left partial is taken up again, without a call for what is there; a smaller one takes nothing away."""
    coder = script(tmp_path / "a.json", ensemble("refine"), [WRONG, WRONG, FLIP])
    for options, said, calls in (
        (["--calls", "2"], "1 partial", 2),
        (["--calls", "2", "--minutes", "9"], "1 partial", 2),
        (["--calls", "3", "--minutes", "9"], "1 ok", 3),
        (["--calls", "1"], "1 ok", 3),
    ):
        assert main(command(coder, tmp_path / "run", *options)) == 0
        assert said in capsys.readouterr().out and len(replies(tmp_path / "run")) == calls
    assert read(tmp_path / "run" / run.PREDICTIONS)[0].member.settings["calls"] == 1


def test_nothing_found_is_said(ensemble, tmp_path, capsys):
    coder = script(tmp_path / "a.json", ensemble("refine"), ["nothing", program("return None")])
    assert main(command(coder, tmp_path / "run", "--rounds", "2")) == 0
    assert "1 failed" in capsys.readouterr().out and list(ranked([tmp_path / "run" / run.PREDICTIONS])) == []


class Scripted:
    """A coder and a sandbox of fixed answers, to look at what a search asks."""

    at_once = 7

    def __init__(self, question, makes):
        self.question, self.makes, self.prompts = question, makes, []

    def fits(self, prompt):
        return True

    def __call__(self, prompts, seeds, tries, seconds):
        self.prompts += prompts
        count = len(self.prompts) - len(prompts)
        return [coders.Reply(f"```python\n{count + at}\n```", 1) for at in range(len(prompts))]

    def run(self, code, inputs):
        """Solves the demonstrations that `makes` says of the number of the program."""
        solved, grids = self.makes(int(code)), []
        for at in range(len(inputs)):
            right = at < 3 and at in solved
            grids.append(self.question.demonstrations[at].output if right else np.full((1, 1), int(code) % 10))
        return sandbox.Ran(tuple(grids), (None,) * 4, "", 0.0, {})


def searched(scripted, makes, folder, **how):
    both = Scripted(scripted, makes)
    settings = search.Settings(search="tree", stop_after=2, **how)
    solver = solve.Refine(both, both, settings, folder)
    [outcome] = solver([scripted], {scripted.id}, run.Watch(1e9))
    return both, outcome


def test_a_tree_grows_by_generations(scripted, tmp_path):
    """Nothing is solved, then parents are the best; the pool has one parent for each demonstration."""
    both, outcome = searched(scripted, lambda n: {n % 3} if n < 6 else set(), tmp_path)
    assert len(both.prompts) == 50 + 200 + 100 + 50 + 50 + 5 and outcome.status == "ok"
    assert [prompt.count("```python\n") for prompt in both.prompts[::50][:10]] == [0, 0, 0, 0, 0, 1, 1, 1, 1, 3]
    asked = replies(tmp_path, scripted.id)
    assert {one["shown"][0] for one in asked[250:350]} == {0, 1, 2, 3, 4, 5} | {
        *[one["shown"][0] for one in asked[310:350]]
    }
    assert all(sorted(n % 3 for n in one["shown"]) == [0, 1, 2] for one in asked[-5:])
    assert {one["shown"][0] for one in asked[350:400]} <= {0, 1, 2, 3, 4, 5}


def test_a_tree_stops_at_two_programs(scripted, tmp_path):
    both, outcome = searched(scripted, lambda n: {0, 1, 2} if n in (3, 60) else set(), tmp_path)
    assert len(both.prompts) == 64 and outcome.numbers["solve"] == 2  # 50, and two chunks of seven
    assert [line.grid[0, 0] for line in outcome.candidates][:2] == [3, 0]


def test_a_budget_of_calls_is_used_up_and_no_more(scripted, tmp_path):
    """Though the coder would be asked for seven at once; what came of it is there when it goes on."""
    for _ in range(2):
        both, outcome = searched(scripted, lambda n: {0} if n == 8 else set(), tmp_path, calls=10)
        assert outcome.status == "partial" and outcome.reason == "10 calls of 10 are used"
        assert outcome.numbers["programs"] == 10 and outcome.candidates[0].grid[0, 0] == 8
    assert both.prompts == []


def test_prompts_that_do_not_fit_show_less(scripted, tmp_path):
    both = Scripted(scripted, lambda n: set())
    shortest = len(search.prompt(scripted, search.Ask("", (), (0, 1, 2))))
    both.fits = lambda prompt: prompt.count("Program ") <= 2 and len(prompt) >= shortest
    solver = solve.Refine(both, both, search.Settings(rounds=5), tmp_path)
    [outcome] = solver([scripted], {scripted.id}, run.Watch(1e9))
    asked = replies(tmp_path, scripted.id)
    assert [one["shown"] for one in asked] == [[], [0], [0, 1], [1, 2], [2, 3]] and outcome.status == "ok"
    both.fits = lambda prompt: False
    [outcome] = solve.Refine(both, both, search.Settings(), tmp_path / "other")([scripted], {scripted.id}, run.Watch(9))
    assert outcome.status == "skipped" and "longer than the coder can read" in outcome.reason


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE_S", 0.01)
    for name in ("TRM_CODER_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    served = Server()
    yield served
    served.shutdown()
    served.server_close()


@pytest.fixture
def data(ensemble, tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(ensemble("refine")["task"]))
    return path


def test_a_server_is_asked_and_its_refusals_count(server, data, tmp_path, capsys, monkeypatch):
    """429 and 503 are tried again, and count; its own count of tokens is taken; one prompt too long costs a round."""
    monkeypatch.setenv("TRM_CODER_KEY", "a-key-of-the-coder")
    code, content, headers = completion(WRONG)
    counted = json.dumps({**json.loads(content), "usage": {"total_tokens": 123}})
    server.answers = [
        (429, "", {}),
        (code, counted, headers),
        (503, "", {}),
        (400, '{"error": "too long"}', {}),
        completion(FLIP),
    ]
    asked = command(server.address, tmp_path / "run", "--data", str(data), "--coder-model", "coder")
    assert main(asked) == 0
    found = replies(tmp_path / "run")
    assert [(one["outcome"], one["tries"]) for one in found] == [("scored", 2), ("no_reply", 1), ("solved", 1)]
    assert found[0]["tokens"] == 123 and "too long" in found[1]["problem"] and len(server.requests) == 5
    path, headers, request = server.requests[0]
    assert headers["Authorization"] == "Bearer a-key-of-the-coder" and request["temperature"] == 1.0
    assert request["model"] == "coder" and "Example 1" in request["messages"][0]["content"]
    assert "a-key-of-the-coder" not in "".join(path.read_text() for path in (tmp_path / "run").rglob("*.json*"))
    assert "asking again" in capsys.readouterr().err


def test_a_run_goes_on_with_a_prompt_that_is_refused(server, data, tmp_path):
    """A server that answered before the run was stopped is believed; an answer that is none costs a round too."""
    asked = command(server.address, tmp_path / "run", "--data", str(data), "--coder-model", "coder", "--calls", "20")
    server.answers = [(400, '{"error": "no such model"}', {})]
    assert main(asked) == 2 and not (tmp_path / "run" / run.REPLIES).exists()
    server.answers = [completion(WRONG), (500, "", {})]
    assert main(asked) == 69
    server.answers = [(400, '{"error": "too long"}', {}), (200, '{"error": "overloaded"}', {}), completion(FLIP)]
    assert main(asked) == 0
    found = [one for one in replies(tmp_path / "run") if "outcome" in one]
    assert [one["outcome"] for one in found] == ["scored", "no_reply", "no_reply", "solved"]
    header, _ = read(tmp_path / "run" / run.PREDICTIONS)
    assert header.member.command == f"trm {shlex.join(asked)}"


def test_a_first_prompt_that_is_too_long_ends_its_task(server, ensemble, tmp_path, capsys):
    """A server that answers something short is believed: the next task is asked."""
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name in "ab":
        (tasks / f"{name}.json").write_text(json.dumps(ensemble("refine")["task"]))
    server.answers = [(400, '{"error": "too long"}', {}), completion("yes"), completion(FLIP)]
    asked = command(server.address, tmp_path / "run", "--data", str(tasks), "--coder-model", "coder")
    assert main(asked) == 0
    said = capsys.readouterr()
    assert "1 ok, 1 skipped" in said.out and "a  skipped" in said.err and "too long" in said.err
    assert [one["tries"] for one in replies(tmp_path / "run", "a")] == [2] and len(server.requests) == 3
    assert [key for key, _ in ranked([tmp_path / "run" / run.PREDICTIONS])] == [("b", 0)]


def test_a_server_that_is_gone_ends_the_run_and_its_tries_count(server, data, tmp_path, capsys):
    server.answers = [completion(WRONG), (503, "", {})]
    asked = command(server.address, tmp_path / "run", "--data", str(data), "--coder-model", "coder", "--rounds", "6")
    assert main(asked) == 69
    assert [one["tries"] for one in replies(tmp_path / "run")] == [1, remote.ATTEMPTS]
    assert "5 times" in capsys.readouterr().err
    server.answers = [(503, "", {})]
    assert main(asked) == 69  # 11 of 12 calls
    server.answers = [(503, "", {})]
    assert main(asked) == 0  # the last one, and the budget ends it
    assert "12 calls of 12 are used" in capsys.readouterr().err and len(server.requests) == 12


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no coder; name who writes the programs: --coder script:FILE"),
        (["--coder", "script:{}"], "--allow-code-execution allows it, in a sandbox that is not a security boundary"),
        (["--coder", "http://localhost:1/v1", "--allow-code-execution"], "--coder-model: name the model"),
        (
            ["--coder", "script:{}", "--coder-model", "x", "--allow-code-execution"],
            "--coder-model: it is for an address",
        ),
        (["--coder", "script:{}", "--dtype", "float32", "--allow-code-execution"], "dtype: such options are for"),
        (["--coder", "script:nowhere.json", "--allow-code-execution"], "nowhere.json does not exist"),
        (["--coder", "local:nowhere", "--data", "{}", "--allow-code-execution"], "is no ARC task"),
    ],
)
def test_bad_input_is_one_line(words, said, ensemble, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script(tmp_path / "a.json", ensemble("refine"))
    assert main(["refine", *[word.format(tmp_path / "a.json") for word in words]]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and said in err and err.count("\n") == 1


def test_no_coder_of_that_kind(capsys):
    for text in ("openai", "script:", "http:localhost", "http://"):
        with pytest.raises(SystemExit) as end:
            main(["refine", "--coder", text])
        assert end.value.code == 2 and "error: argument --coder" in capsys.readouterr().err


def test_a_script_that_runs_out_and_another_run(ensemble, tmp_path, capsys):
    coder = script(tmp_path / "a.json", ensemble("refine"), [WRONG])
    assert main(command(coder, tmp_path / "run")) == 2
    assert "has 1 responses, and one more is asked for" in capsys.readouterr().err
    assert main(command(coder, tmp_path / "run", "--rounds", "1")) == 2
    assert "is of another run (settings differ); --force begins anew" in capsys.readouterr().err
    assert main(command(coder, tmp_path / "run", "--rounds", "1", "--force")) == 0
    assert len(replies(tmp_path / "run")) == 1


def test_an_interrupt_keeps_what_is_there(ensemble, tmp_path, capsys, monkeypatch):
    """At once, in the midst of a program; the same command runs the program of the reply that is there: the script has
    no third one."""
    asked = command(script(tmp_path / "a.json", ensemble("refine"), [WRONG, FLIP]), tmp_path / "run")
    runs = sandbox.Sandbox.run

    def interrupted(self, code, inputs):
        if "fliplr" in code:
            raise KeyboardInterrupt
        return runs(self, code, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(sandbox.Sandbox, "run", interrupted)
        assert main(asked) == 75
    said = capsys.readouterr()
    assert "stopped: 0 of 1 tasks are answered" in said.out and "the same command goes on" in said.err
    assert [one.get("outcome") for one in replies(tmp_path / "run")] == ["scored", None]
    assert main(asked) == 0
    assert [one["outcome"] for one in replies(tmp_path / "run")] == ["scored", "solved"]


def test_a_network_that_cannot_be_cut_is_refused(ensemble, tmp_path, capsys, monkeypatch):
    bare = property(lambda self: {"files": False, "network": False, "processes": True})
    monkeypatch.setattr(sandbox.Sandbox, "closed", bare)
    coder = script(tmp_path / "a.json", ensemble("refine"), [FLIP])
    assert main(command(coder, tmp_path / "run")) == 2
    said = capsys.readouterr()
    assert "nothing here keeps programs from the network; --sandbox-network open" in said.err
    assert "files: open, network: open" in said.out
    assert main(command(coder, tmp_path / "run", "--sandbox-network", "open")) == 0


def test_a_model_here_writes(tiny_model, data, tmp_path, capsys):
    """What random weights write is no program; seed, task and round decide it, and nothing else."""
    pytest.importorskip("tokenizers")
    for name, seed in (("one", "0"), ("other", "1")):
        small = ["--max-new-tokens", "16", "--temperature", "30", "--seed", seed, "--data", str(data)]
        assert main(command(f"local:{tiny_model}", tmp_path / name, "--rounds", "2", *small)) == 0
    one, other = ([said["reply"] for said in replies(tmp_path / name)] for name in ("one", "other"))
    assert len(one) == 2 and one[0] != one[1] and one != other
    (tmp_path / "one" / run.RECORDS / "a.json").unlink()
    kept = tmp_path / "one" / run.REPLIES / "a.jsonl"
    kept.write_text("".join(kept.read_text().splitlines(keepends=True)[:2]))  # a reply, and what came of it
    small[5] = "0"
    assert main(command(f"local:{tiny_model}", tmp_path / "one", "--rounds", "2", *small)) == 0
    assert [said["reply"] for said in replies(tmp_path / "one")] == one  # it goes on as if it had not been stopped
    assert all(one["outcome"] == "no_program" for one in replies(tmp_path / "one"))
    assert main(command(f"local:{tiny_model}", tmp_path / "long", "--max-new-tokens", "1020", "--data", str(data))) == 0
    assert "1 skipped" in capsys.readouterr().out


def test_a_model_that_was_trained_on_the_task_is_told(tiny_model, data, tmp_path, capsys):
    pytest.importorskip("tokenizers")
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    (folder / "finetune.json").write_text(json.dumps({"trained_on": {"name": "set", "tasks": ["a"]}}))
    small = ["--max-new-tokens", "4", "--rounds", "1", "--data", str(data)]
    assert main(command(f"local:{folder}", tmp_path / "run", *small)) == 0
    assert "contaminated: the coder was trained on 1 task ids (a) in set" in capsys.readouterr().out
    header, _ = read(tmp_path / "run" / run.PREDICTIONS)
    assert [*header.member.trained_on] == ["set"] and "contaminated" in header.member.settings
