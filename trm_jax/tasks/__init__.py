"""Tasks: where puzzles come from, how answers are scored, how both are shown. A new task is one folder here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from trm_jax import named
from trm_jax.data.dataset import Batch, DatasetInfo, EvalSource, TrainSource

# Setting data.task -> where its `Task` is; imported when it is asked for.
BUILT_IN = {name: f"trm_jax.tasks.{name}:TASK" for name in ("sudoku", "maze", "arc", "pairs")}
BUILT_IN["hybrid"] = "trm_jax.solvers.hybrid:TASK"
Progress = Callable[[int, int], None]  # (done, total)


class Task(Protocol):
    """One kind of puzzle. Whatever is specific to it is asked for here; nothing else knows which task is at hand.

    S = tokens of a sequence. Everything raises InputError for what a person can mend.
    """

    Config: type  # frozen dataclass: the settings of section `data`, each with a default
    headline: str  # the score that picks the best checkpoint and stands in tables, for example "exact_accuracy"

    def info(self, cfg: Any) -> DatasetInfo:
        """The numbers of the data set as far as the settings tell them; groups is 0 where only the data tell how many.

        The first three decide the model. A task whose settings do not tell those reads the puzzles.
        """

    def eval_size(self, cfg: Any) -> int:
        """Examples of one evaluation as far as the settings tell; 0 where only the data do."""

    def load(self, cfg: Any, *, progress: Progress | None = None) -> tuple[TrainSource, EvalSource]:
        """Training data addressed by step, and the evaluation set; checked, with no puzzle in both."""

    def load_eval(self, cfg: Any, *, progress: Progress | None = None) -> EvalSource:
        """The evaluation set alone, for puzzles that come without training data."""

    def batch_spec(self, cfg: Any) -> Mapping[str, tuple[tuple[int, ...], Any]]:
        """Name -> (shape without the batch axis, dtype) of a batch's arrays."""

    def score(self, cfg: Any, answers, batch, counted) -> Mapping[str, Any]:
        """On the device: sums of scores over the rows where `counted` [B] holds, float32 scalars, "count" among them.

        answers [B, S] int32 tokens; batch: the rows they answer, as `batch_spec` says.
        """

    def finish(self, sums: Mapping[str, float]) -> dict[str, float]:
        """On the host: the scores from fetched sums, `headline` among them; empty when nothing was counted.

        sums: of `score`, and figures of others, which are left alone.
        """

    def local(self, cfg: Any) -> Mapping[str, Any]:
        """Settings of section `data` that make a run of seconds: fewer puzzles, from no network."""

    def read(self, cfg: Any, text: str) -> np.ndarray:
        """Puzzles written by a person: inputs [N, S] int32."""

    def check(self, cfg: Any, inputs: np.ndarray, answer: np.ndarray) -> tuple[str, ...] | None:
        """What is wrong with an answer [S] to inputs [S], a line each; empty for a right one. Needs no label.

        None where the puzzle alone does not tell whether the answer is right.
        """

    def show(self, cfg: Any, inputs: np.ndarray, answer: np.ndarray, *, color: bool = False) -> str:
        """An answer [S] to inputs [S] as text for a terminal."""

    def line(self, cfg: Any, tokens: np.ndarray) -> str:
        """A puzzle or an answer [S] on one line, as `read` takes it."""

    # Optional. Notes on the settings, before a run starts: warnings(cfg) -> lines.
    # files(cfg) -> what every host must find, lines like "reads PATH on every host".
    # ballot(cfg, data) -> an object that collects the answers of an evaluation on the host, every process all of them:
    # add(indices [b], answers [b, S], q_halt [b]) after each batch, scores() -> more scores, at the end, without the
    # headline where the answers are not known, and write(path, name, command, settings), which makes RUN/PREDICTIONS.
    # unseen(cfg, path) -> the settings of section `data` under which the puzzles at `path` are a set of their own, for
    # models that know each puzzle by an embedding: `trm solve` learns one for them.
    # seen(trained, asked) -> why a model trained under settings `trained` must not be scored under `asked`, or "".
    # follows(trained, asked): raises InputError where a model trained under `trained` cannot be used under `asked`, nor
    # be what a run under `asked` begins with.
    # kept_ids(cfg, other) -> how many puzzle ids, from 0 on, mean the same under both settings (default: all).
    # reader(cfg) -> (a language model, tokens of a text): what runs before training and is unloaded, for `trm plan`.
    # Its training and evaluation sources may have given(params) -> frozen parameters that come with the data.
    # made_up(cfg) -> what `load` gives, of random puzzles that need no files: for a benchmark, which else takes random
    # tokens and puzzle ids in the shapes of `batch_spec`.
    # For `trm eval --rollouts`:
    # valid(cfg, answers [B, S], batch) -> [B] bool, on the device: answers that break no rule. Needs no label.
    # symmetries(cfg, count, seed) -> (cells [count, S], tokens [count, V]), NumPy: cell i of form k of a puzzle or an
    # answer is tokens[k, old[cells[k, i]]]; the first is the identity, and each is undone by its inverse.
    # strata(cfg, data) -> {name: values [N]}, NumPy: what makes the puzzles of an `EvalSource` hard or easy, by which
    # `trm eval --diagnose` splits the score.
    # A task without these draws nothing:
    # png(cfg, path, inputs, answer, *, caption="")                           one picture
    # gif(cfg, path, inputs, frames, q, *, halted_at=None)                    the answers of every step, [steps, S]


def get(name: str) -> Task:
    """The task called `name`, or the one at "module:ATTRIBUTE", which need not be of this package."""
    return named.load(name, BUILT_IN, "data.task")


__all__ = ["Batch", "DatasetInfo", "EvalSource", "Progress", "Task", "TrainSource", "get"]
