"""`trm lm generate` on a tiny model of random weights: what it writes, and what becomes of it when it is stopped."""

import json
import random
import signal
from pathlib import Path

import pytest

from tests import faults
from trm_jax.errors import InputError
from trm_jax.language import generate as g
from trm_jax.language import lines

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "tests" / "golden" / "llm" / "gguf" / "llama_mixed.gguf"
# Its vocabulary is of 288 tokens: a question is some fifty of them.
SHORT = ("--shots", 0, "--brief", "", "--max-new-tokens", 20, "--batch", 4, "--stop", "Z", r"\n")


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("questions") / "ten.jsonl"
    lines = g.QUESTIONS.read_text().splitlines()
    path.write_text("\n".join(lines[:5] + lines[6:11]))
    return path


@pytest.fixture
def words(questions, tmp_path) -> tuple:
    """The command line that answers ten questions into tmp_path/answers.jsonl."""
    return ("lm", "generate", MODEL, "--questions", questions, *SHORT, "--output", tmp_path / "answers.jsonl")


@pytest.fixture(scope="module")
def whole(trm, tmp_path_factory, questions) -> bytes:
    """The answers as they are when nothing happens."""
    output = tmp_path_factory.mktemp("whole") / "answers.jsonl"
    result = trm.run("lm", "generate", MODEL, "--questions", questions, *SHORT, "--output", output)
    assert result.code == 0, result.err
    return output.read_bytes()


def test_answers_scores_and_the_next_command(trm, tmp_path, words, whole):
    """A record for each question in their order; asked again, nothing is written anew."""
    output = tmp_path / "answers.jsonl"
    output.write_bytes(whole)
    result = trm.run(*words)
    assert (result.code, output.read_bytes()) == (0, whole)
    assert "exact match      0.0000  (0 of 10)" in result.out and f"answers: {output}" in result.out
    assert "AUROC of -NLL    exact unknown" in result.out
    assert f"next: trm lm judge {output} --judge {MODEL}" in result.err
    header, *records = g.records(output)
    assert header["kind"] == "lm-answers-1" and header["model"] == "llama_mixed.gguf"
    assert header["settings"]["stops"] == ["Z", "\n"] and header["questions"] == "ten.jsonl"
    assert [one["id"] for one in records] == [one.id for one in g.read_questions(words[4])]
    fields = ["id", "question", "answers", "response", "tokens", "log_probs", "nll", "stop"]
    assert all(list(one) == fields for one in records)
    assert {one["stop"] for one in records} == {"\n", "length"}
    assert [file.name for file in tmp_path.iterdir()] == ["answers.jsonl"]


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_cut_anywhere_it_ends_the_same(trm, tmp_path, words, whole, force):
    """With an unfinished file that a kill has cut at some byte, in the midst of batches; forced, beside another's."""
    output, (header, *lines) = tmp_path / "answers.jsonl", whole.splitlines(keepends=True)
    if force:
        output.write_bytes(whole.replace(b'"seed": 0', b'"seed": 1', 1))
    cut = random.Random(len(force))
    partial = header + b"".join(cut.sample(lines, 7))
    (tmp_path / "answers.jsonl.partial").write_bytes(partial[: cut.randrange(len(header) + 300, len(partial))])
    result = trm.run(*words, *force)
    assert (result.code, output.read_bytes()) == (0, whole), result.err
    assert "going on: " in result.err


@pytest.mark.slow
def test_interrupted_and_killed_it_ends_the_same(trm, tmp_path):
    """Four hundred questions: the first Ctrl-C ends it after the running chunk, with what it has; then it is killed at
    random."""
    asked = [json.loads(line) for line in g.QUESTIONS.read_text().splitlines()]
    asked = [
        {**one, "id": f"{one['id']}-{n}", "question": f"({n}) {one['question']}"} for n in range(10) for one in asked
    ]
    many = tmp_path / "questions.jsonl"
    many.write_text("".join(f"{json.dumps(one)}\n" for one in asked))

    def start(name: str):
        how = ("--shots", 0, "--brief", "", "--max-new-tokens", 40, "--stop")
        return trm.start("lm", "generate", MODEL, "--questions", many, *how, "--output", tmp_path / name)

    def count() -> int:
        partial = tmp_path / "stopped.partial"
        return partial.read_text().count("\n") if partial.exists() else 0

    assert start("whole").wait().code == 0
    process = start("stopped")
    assert process.until(lambda: count() > 2), process.wait()
    process.signal(signal.SIGINT)
    result = process.wait()
    assert result.code == 75 and "stopped by SIGINT" in result.out and not result.error_lines, result
    draw, kills = random.Random(4), 0
    while not (tmp_path / "stopped").exists():
        process, least = start("stopped"), count() + draw.randrange(80)
        if process.until(lambda process=process, least=least: count() > least):
            process.kill()
            kills += process.wait().code == -signal.SIGKILL
        else:
            assert process.wait().code == 0
    assert kills > 3
    assert (tmp_path / "stopped").read_bytes() == (tmp_path / "whole").read_bytes()
    assert len((tmp_path / "stopped").read_text().splitlines()) == 401 and count() == 0


def test_on_a_disk_that_is_full(trm, tmp_path, questions, whole):
    """One line; once there is space the same command goes on."""
    with faults.small_disk(tmp_path / "disk", 4) as disk:
        words = ("lm", "generate", MODEL, "--questions", questions, *SHORT, "--output", disk / "answers.jsonl")
        result = trm.run(*words)
        assert result.code == 2 and len(result.error_lines) == 1, result
        assert "the disk is full; free some space" in result.error_lines[0]
        faults.remount(disk, "size=100k")
        assert trm.run(*words).code == 0
        assert (disk / "answers.jsonl").read_bytes() == whole


def test_what_is_there_is_kept_unless_forced(refused, tmp_path, words, whole):
    """Answers of other settings, finished or not, are named with what differs; so is another file."""
    for name in ("answers.jsonl", "answers.jsonl.partial"):
        (tmp_path / name).write_bytes(whole)
        told = refused(*words, "--max-new-tokens", 30, "--temperature", 0.5)
        assert (
            f"{tmp_path / name} is there, of another run (max_new_tokens 20, not 30, temperature 0.0, not 0.5)" in told
        )
        assert "--force begins anew" in told
        (tmp_path / name).unlink()
    for notes in (b"my notes\n", b"\xff\xfe", b'{"kind": "lm-judged-1"}\n{}\n', b"[1]\n"):
        (tmp_path / "answers.jsonl").write_bytes(notes)
        assert "another kind of file" in refused(*words, "--force")
        assert (tmp_path / "answers.jsonl").read_bytes() == notes


def test_two_at_once_do_not_mix(tmp_path):
    """Under one header both write the same; who finds another header there leaves it alone."""
    one, other = ({"kind": g.KIND, "seed": seed} for seed in (0, 1))
    output = tmp_path / "a.jsonl"
    assert lines.begin(output, one, False) == lines.begin(output, other, False) == []
    with pytest.raises(InputError, match=r"another process writes .*a\.jsonl\.partial, under other settings"):
        lines.add(output, one, [{"id": "a"}])
    lines.add(output, other, [{"id": "b"}])
    lines.finish(output, other, [{"id": "b"}])
    lines.add(output, other, [{"id": "b"}])  # of its twin
    assert lines.begin(output, other, False) == [{"id": "b"}]


def test_bad_input_is_one_line(refused, tmp_path, words):
    """Before anything is written."""
    (tmp_path / "empty.jsonl").write_text('{"id": "a", "question": "Who?", "answers": []}')
    assert "line 1: a has no answers" in refused(*words, "--questions", "empty.jsonl")
    assert "--shots 6: 5 are built in" in refused(*words, "--shots", 6)
    assert "none.jsonl: no such file" in refused(*words, "--shots", "none.jsonl")
    assert "--shots: the path is empty" in refused(*words, "--shots", "")
    assert "'AnsZer' has 'Z' in it" in refused(*words, "--stop", "Z", "AnsZer")
    assert "temperature is -1.0; it must not be negative" in refused(*words, "--temperature", -1)
    assert "is a folder; name a file" in refused(*words, "--output", tmp_path)
    assert "a part of this path is a file" in refused(*words, "--output", tmp_path / "empty.jsonl" / "answers")
    assert "nowhere does not exist" in refused("lm", "generate", "nowhere")
    assert "nowhere does not exist" in refused(*words, "--adapter", "nowhere")
    assert [file.name for file in tmp_path.iterdir()] == ["empty.jsonl"]


def test_a_prompt_that_is_too_long(refused, words):
    """Is one line with the question's name."""
    assert "question qa01: its prompt has 58 tokens, and with 500 new ones" in refused(*words, "--max-new-tokens", 500)
