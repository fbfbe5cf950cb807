"""`trm lm judge` and `trm lm run`: stopped and killed in the midst, with judges here and behind an address."""

import json
import random
import shutil
import signal

import jax
import pytest

from tests import tiny
from tests.chat_server import Server, completion
from trm_jax.language import generate, judge, remote

pytest.importorskip("tokenizers")
KEY = "a-key-of-the-judge"
NO_TEMPLATE = "error: llama.gguf has no chat template, so it may be a base model; ask it by --how shots\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def model(folder):
    return tiny.language_model(folder)


@pytest.fixture(scope="module")
def questions(folder):
    """Five, whose prompts are padded to one length."""
    lines = generate.QUESTIONS.read_text().splitlines()
    path = folder / "questions.jsonl"
    path.write_text("\n".join(lines[at] for at in (1, 3, 9, 15, 22)))
    return path


def answered(path, questions):
    """An answers file, as a good model would have written it, but for one answer that it did not give."""
    asked = generate.read_questions(questions)
    header = generate.header("someone", "0", "questions.jsonl", asked, [], generate.Settings())
    said = [{"id": one.id, "question": one.question, "answers": one.answers} for one in asked]
    for number, one in enumerate(said):
        one |= {"response": one["answers"][0], "tokens": [1], "log_probs": [-0.1], "nll": 0.1 + number, "stop": "eos"}
    said[3] |= {"response": "<|im_end|>", "nll": None}
    path.write_text("".join(f"{json.dumps(one)}\n" for one in (header, *said)))
    return path


@pytest.fixture(scope="module")
def answers(folder, questions):
    return answered(folder / "answers.jsonl", questions)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_words_alone(here, answers, tmp_path):
    found = here("lm", "judge", answers, "--output", "scores.jsonl")
    assert found.code == 0, found.err
    assert "exact match      0.8000  (4 of 5)" in found.out and "without a token 1" in found.out
    assert found.err == f"next: trm lm judge {answers} --judge MODEL --force\n"
    header, *records = lines_of(tmp_path / "scores.jsonl")
    assert header["kind"] == "lm-judged-1" and header["judge"] is None and header["answers"] == "answers.jsonl"
    assert [one["em"] for one in records] == [True, True, True, False, True]
    assert not any("verdict" in one for one in records)


def test_cut_anywhere_it_ends_with_the_same_file(trm, answers, model, tmp_path):
    """With what a kill may leave: some batches, and a line that ends somewhere."""
    asked = ("lm", "judge", answers, "--judge", model, "--how", "chat", "--batch", 3)
    whole = trm.run(*asked, "--output", tmp_path / "whole.jsonl")
    assert whole.code == 0, whole.err
    assert "  on wrong ones  " in whole.out and "control          AUROC" in whole.out
    expected = (tmp_path / "whole.jsonl").read_bytes()
    header, *records = lines_of(tmp_path / "whole.jsonl")
    assert [one.get("control") for one in records] == [None, "right", "wrong"] * 5
    assert header["settings"] == {"how": "chat", "control": True}
    first, *others = expected.splitlines(keepends=True)
    (tmp_path / "a.jsonl.partial").write_bytes((first + b"".join(random.Random(1).sample(others, 9)))[:-20])
    last = trm.run(*asked, "--output", tmp_path / "a.jsonl")
    assert last.code == 0 and "going on: 8 of 15 rulings are there" in last.err, last.err
    assert (tmp_path / "a.jsonl").read_bytes() == expected and not (tmp_path / "a.jsonl.partial").exists()


def test_a_judge_without_a_template(here, answers, model, golden_folder, tmp_path):
    """It may be a base model: refused in a chat, a note where it goes on from examples."""
    shutil.copy(golden_folder / "llm" / "tokenizer_bos" / "tokenizer.json", tmp_path)
    asked = ("lm", "judge", answers, "--judge", model, "--tokenizer", tmp_path, "--no-control")
    chat = here(*asked, "--how", "chat", "--output", "chat.jsonl")
    assert chat.code == 2 and chat.err == NO_TEMPLATE
    plain = here(*asked, "--output", "plain.jsonl")
    assert plain.code == 0 and "note: llama.gguf has no chat template, so it may be a base model" in plain.err


@pytest.mark.slow
def test_a_judge_stopped_and_killed_at_random_ends_with_the_same_file(trm, model, tmp_path):
    answers = answered(tmp_path / "answers.jsonl", generate.QUESTIONS)
    asked = ("lm", "judge", answers, "--judge", model, "--how", "chat", "--batch", 1)
    assert trm.run(*asked, "--output", tmp_path / "whole.jsonl").code == 0
    output, dice = tmp_path / "a.jsonl", random.Random(1)

    def count():
        partial = tmp_path / "a.jsonl.partial"
        return partial.read_text().count("\n") if partial.exists() else 0

    for number in (signal.SIGINT, signal.SIGKILL, signal.SIGKILL):
        process, least = trm.start(*asked, "--output", output), count() + dice.randrange(2, 20)
        assert process.until(lambda least=least: count() >= least)
        process.signal(number)
        result = process.wait()
        assert result.code == (75 if number == signal.SIGINT else -signal.SIGKILL), result.err
        assert number == signal.SIGKILL or "next: the same command goes on from there" in result.err
    assert not output.exists()
    assert trm.run(*asked, "--output", output).code == 0
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes() and count() == 0


def test_rulings_of_others_are_not_mixed(refused, here, answers, model, tmp_path):
    for name in ("a.jsonl", "a.jsonl.partial"):
        header = judge.header(answers, "another", "1", "shots", True)
        (tmp_path / name).write_text(json.dumps(header) + "\n" + json.dumps({"id": "qa02"}) + "\n")
        said = refused("lm", "judge", answers, "--judge", model, "--output", "a.jsonl")
        assert said.startswith(f"{name} is there, of another run (judge another, not llama.gguf") and "--force" in said
        (tmp_path / name).unlink()


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE_S", 0.001)
    monkeypatch.setenv("TRM_JUDGE_KEY", KEY)
    with Server() as server:
        server.answers = [grade]
        yield server
        server.shutdown()


def grade(handler):
    """A fair judge, who repeats the key to all who ask."""
    said = dict(line.split(": ", 1) for line in handler.asked["messages"][-1]["content"].splitlines() if ": " in line)
    right = said["Proposed answer"] in said["Accepted answers"].split("; ")
    first = [{"token": "Yes" if right else "No", "logprob": -0.1}, {"token": "No" if right else "Yes", "logprob": -3}]
    return completion(f"{'Yes' if right else 'No'}, {handler.headers['Authorization']}", first)


def test_a_judge_behind_an_address(here, server, answers, tmp_path):
    asked = ("lm", "judge", answers, "--judge", server.address, "--judge-model", "m", "--output", "a.jsonl")
    server.answers = [grade, grade, (429, "later", {}), grade, grade, (500, f"not with {KEY}", {})]
    found = here(*asked)
    assert found.code == 69 and len(found.error_lines) == 1 and "answers 500: not with ***" in found.error_lines[0]
    assert len(lines_of(tmp_path / "a.jsonl.partial")) == 1 + 4
    server.answers, before = [grade], len(server.requests)
    again = here(*asked)
    assert again.code == 0, again.err
    assert "going on: 4 of 15 rulings are there" in again.err and len(server.requests) - before == 11
    assert "verdicts         yes 4  no 1  unparsable 0" in again.out
    assert "control          AUROC 1.0000; 100% right" in again.out
    assert all(headers["Authorization"] == f"Bearer {KEY}" for _, headers, _ in server.requests)
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert KEY not in written + found.err + found.out + again.err + again.out and "Yes, Bearer ***" in written


@pytest.mark.parametrize(
    "answer, code, words",
    [
        ((401, f"no {KEY}", {}), 2, "refuses the key of TRM_JUDGE_KEY; set the right one in the environment"),
        ((404, '{"error": {"message": "no such model"}}', {}), 2, "answers 404: no such model"),
        ((200, "<html>", {}), 2, "answers, but not as OpenAI's chat completions do: <html>"),
    ],
)
def test_a_server_that_refuses(here, server, answers, answer, code, words):
    server.answers = [answer]
    found = here("lm", "judge", answers, "--judge", server.address, "--judge-model", "m", "--output", "a.jsonl")
    assert (
        found.code == code and words in found.error_lines[0] and KEY not in found.err and "Traceback" not in found.err
    )


@pytest.mark.parametrize(
    "words, problem",
    [
        (["--judge", "http://host/v1"], "name the model of http://host/v1 with --judge-model"),
        (["--judge", "http://host/v1", "--judge-model", "m", "--quantise", "int8"], "quantise: such options are for"),
        (["--judge", "http://me:key@host/v1"], "a key belongs into the environment"),
        (["--judge", "nowhere", "--judge-model", "m"], "--judge-model is for the address of a server"),
        (["--judge", "nowhere"], "nowhere does not exist"),
        (["--dtype", "bfloat16"], "dtype: such options are for a model on this machine; name it with --judge"),
        (["--how", "nicely"], "invalid choice: 'nicely'"),
    ],
)
def test_what_cannot_be_judged(refused, answers, words, problem):
    assert problem in refused("lm", "judge", answers, *words)


def test_what_holds_no_answers(refused, answers, tmp_path):
    assert "no such file" in refused("lm", "judge", "none.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"id": 1}\n')
    assert "is no file of answers" in refused("lm", "judge", "bad.jsonl")
    (tmp_path / "empty.jsonl").write_text(answers.read_text().splitlines()[0])
    assert "empty.jsonl holds no answer" in refused("lm", "judge", "empty.jsonl")


def test_a_run_misses_its_judge_before_it_begins(refused, model, tmp_path):
    said = refused("lm", "run", "--generator", model, "--judge", "nowhere", "--workdir", "a")
    assert "nowhere does not exist" in said and not (tmp_path / "a").exists()


RUN = ("--shots", 0, "--max-new-tokens", 4, "--how", "chat")


def test_run_is_both_and_a_report_and_leaves_nothing_in_memory(here, model, questions, compilations, tmp_path):
    asked = ("lm", "run", "--generator", model, "--judge", model, "--questions", questions, "--workdir", "a", *RUN)
    before = {id(array) for array in jax.live_arrays()}
    with tiny.warm_compilations(compilations):
        found = here(*asked)
    assert found.code == 0, found.err
    assert "the generator is unloaded; 0 bytes of it are left" in found.err
    assert not [array for array in jax.live_arrays() if id(array) not in before]
    assert found.out.endswith("next: open a/report.html\n")
    names = {path.name for path in (tmp_path / "a").iterdir()} - {".lock"}
    pictures = {"report_likelihood.png", "report_judge.png"}
    assert names == {"answers.jsonl", "judged.jsonl", "report.html", "report.md", "report.csv", *pictures}
    assert len(judge.records(tmp_path / "a" / "judged.jsonl")) == 16
    assert "- judge: llama.gguf (" in (tmp_path / "a" / "report.md").read_text()
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    again = here(*asked)  # which has nothing to do but to tell
    assert again.code == 0 and again.out == found.out and "reading" not in again.err
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}


@pytest.mark.slow
def test_a_run_killed_in_each_part_goes_on(trm, model, questions, tmp_path):
    asked = ("lm", "run", "--generator", model, "--judge", model, "--questions", questions, *RUN, "--judge-batch", 3)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done = trm.run(*asked, "--workdir", whole)
    assert done.code == 0, done.err
    for part in ("answers.jsonl.partial", "judged.jsonl.partial"):
        process = trm.start(*asked, "--workdir", killed)
        assert process.until(lambda part=part: (killed / part).exists())
        process.kill()
        process.wait()
    last = trm.run(*asked, "--workdir", killed)
    assert last.code == 0, last.err
    for name in ("answers.jsonl", "judged.jsonl", "report.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
