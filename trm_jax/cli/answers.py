"""Answers that a model writes token by token to all forms of the test inputs, voted on: the second half of `trm eval`.

What has been written is kept in RUN/answers-*.jsonl, so that a command that was stopped goes on.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import closing

import numpy as np

from trm_jax.cli.arguments import command
from trm_jax.storage.paths import AnyPath, append_line, json_lines

MOST = 931  # tokens of an answer: 30 x 30 cells with a token behind each row, and the end


def write_answers(args, opened, data, meter) -> str:
    """Answer, vote, write RUN/predictions.jsonl, print the scores; the command to follow.

    data: with `questions()`; meter: `train.meter.Meter`.
    """
    from trm_jax.evals.decode import Decoder
    from trm_jax.models.arc_transformer import END
    from trm_jax.tasks.arc import learned
    from trm_jax.tasks.arc.files import digest
    from trm_jax.tasks.arc.predictions import Header, Line, Member, writing
    from trm_jax.tasks.arc.vote import Ballot, score, unknown
    from trm_jax.train.progress import Progress
    from trm_jax.train.writers import PREDICTIONS

    cfg, questions = opened.cfg, data.questions()
    drawn = questions.pairs.symmetries.tobytes() + questions.pairs.colors.tobytes() + data.digest.encode()
    how = f"{opened.weights} {cfg.data.row_tokens} {cfg.model}".encode()
    name = hashlib.sha256(drawn + how).hexdigest()[:8]
    file = args.run_dir / f"answers-{opened.step}-{name}.jsonl"
    done = _read(file)
    left = np.array([n for n in range(len(questions)) if n not in done], np.int64)
    if done:
        print(f"going on: {len(done):,} of {len(questions):,} answers are in {file}", file=sys.stderr)
    decoder = Decoder(cfg.family, cfg.model, cfg.eval.batch_size, END)
    with closing(Progress(f"answers {args.run_dir.name}", len(questions))) as progress:
        progress.start(len(done))

        def on_batch(first: int, total: int) -> bool:
            meter.tick()
            return bool(progress.step(len(done)))

        most = min(MOST, cfg.data.row_tokens)
        drafts = _Drafts(questions, done) if args.drafts else None
        # With drafts each test input is answered as it is before its other forms are.
        for part in [np.isin(left, questions.firsts), ~np.isin(left, questions.firsts)] if drafts else [left >= 0]:
            for params, asked in _by_model(opened, questions, left[part]):

                def prompt(number: int, asked=asked):
                    return questions.prompt(asked[number])

                def draft(number: int, asked=asked):
                    return drafts.prompt(int(asked[number]))

                sizes = questions.sizes[asked]
                for batch in decoder(params, prompt, sizes, most, on_batch, drafts and draft):
                    lines = []
                    for one in batch:
                        number, mean = int(asked[one.prompt]), float(one.log_probs.mean())
                        done[number] = (one.tokens, mean)
                        if drafts:
                            drafts.add(number, one.tokens)
                        lines.append(json.dumps({"prompt": number, "tokens": one.tokens.tolist(), "log_prob": mean}))
                    append_line(file, "\n".join(lines))
        progress.step(len(questions))
    ballot, dropped = Ballot(), 0
    for number in sorted(done):
        dropped += not questions.vote(ballot, number, *done[number])
    print(f"answers          {len(questions):,} written, {dropped:,} of them no grid or the input itself")
    settings = {"checkpoints": [opened.step], "augmentations": cfg.data.augmentations, "weights": opened.weights}
    trained = learned(one.data for one in opened.trained.lineage(cfg.task))
    member = Member(cfg.name, "arc_transformer", args.typed, settings, None, trained)
    predictions = args.run_dir / PREDICTIONS
    with writing(predictions, Header(member, cfg.data.test_set, digest(data.tasks))) as writer:
        for key, candidates in ballot.ranked():
            writer.candidates(key, candidates)
        for task in data.tasks:
            writer.line(Line(task, status="ok"))
    following = command("arc", "submit", predictions, "--data", "TASKS", "--output", "submission.json")
    if all(unknown(task) is None for task in data.tasks.values()):
        following = command("arc", "score", predictions, "--data", "TASKS")
        ranked = ((key, [one.grid for one in candidates]) for key, candidates in ballot.ranked())
        found = score(ranked, data.tasks)
        for k in (1, 2):
            print(f"pass@{k}           {found.mean_over_tasks[k]:.4f}  mean over {found.tasks} tasks")
        record = {"kind": "answers", "step": opened.step, "weights": opened.weights, "eval_set": data.digest}
        record |= {f"pass@{k}": value for k, value in found.mean_over_tasks.items()}
        append_line(args.run_dir / "evals.jsonl", json.dumps(record))
    print(f"predictions: {predictions}")
    return following


def _by_model(opened, questions, numbers: np.ndarray) -> Iterator[tuple[dict, np.ndarray]]:
    """(parameters, the prompts of `numbers` that they answer): of all, or of each task that has a model of its own."""
    import jax

    if not opened.cfg.models:
        yield opened.params, numbers
        return
    take, tasks = jax.jit(opened.cfg.family.of_task), questions.tasks[numbers]
    for task in np.unique(tasks):
        yield take(opened.params, task), numbers[tasks == task]


class _Drafts:
    """The answer that most forms of a test input agree on so far, as a draft for its other forms."""

    def __init__(self, questions, done: Mapping[int, tuple[np.ndarray, float]]):
        self._questions, self._found = questions, defaultdict(Counter)
        for number, (tokens, _) in done.items():
            self.add(number, tokens)

    def add(self, number: int, tokens: np.ndarray) -> None:
        """What was written behind a prompt."""
        grid = self._questions.answer(number, tokens)
        if grid is not None:
            self._found[self._questions.test(number)][grid.shape, grid.tobytes()] += 1

    def prompt(self, number: int) -> dict[str, np.ndarray] | None:
        """A prompt with its draft."""
        best = self._found[self._questions.test(number)].most_common(1)
        if not best:
            return None
        (shape, cells), _ = best[0]
        return self._questions.prompt(number, np.frombuffer(cells, np.uint8).reshape(shape))


def _read(file: AnyPath) -> dict[int, tuple[np.ndarray, float]]:
    """(tokens, mean log-probability) by the number of the prompt; a line that was cut by a kill is left out."""
    lines = [one for _, one in json_lines(file)]
    return {one["prompt"]: (np.array(one["tokens"], np.int32), one["log_prob"]) for one in lines}
