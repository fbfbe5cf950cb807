"""MARC: train an adapter for each task, ask it in many ways, and vote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from trm_jax import sharding
from trm_jax.evals.decode import Decoder
from trm_jax.language.model import Model
from trm_jax.models import decoder
from trm_jax.settings import check, check_seed, number, option
from trm_jax.solvers import Question, adapt, generator
from trm_jax.solvers.marc import prompts, puzzles
from trm_jax.solvers.marc.vote import vote
from trm_jax.solvers.run import Outcome, Watch, by_training
from trm_jax.tasks.arc.predictions import Line

TARGETS = ("q", "v", "gate", "up", "down")  # of the published run
CHUNK = 16  # tokens between two looks at what has ended


@dataclass(frozen=True)
class Settings:
    """What decides the answers besides the model and the recipe."""

    seed: int = 0
    most: int = number(puzzles.MOST)  # that train an adapter, at most; 0: no training
    longest: int = number(puzzles.LONGEST, low=1)  # tokens of a text
    loss: str = option("after_first", *prompts.LOSSES)
    instruction: str = prompts.INSTRUCTION

    def __post_init__(self):
        check(self)
        check_seed("seed", self.seed)


class Marc:
    """A `run.Solver`."""

    def __init__(
        self,
        model: Model,
        recipe: adapt.Recipe,
        settings: Settings,
        rows: int,
        tasks: int = 1,
        mesh: Mesh | None = None,
    ):
        """rows: prompts that are answered at a time; tasks: the most of a group; mesh: as of `adapt.Trainer`."""
        self._model, self._recipe, self._settings, self._tasks = model, recipe, settings, tasks
        self._form = prompts.Format(model.words, settings.instruction)
        self._trainer = adapt.Trainer(recipe, model.cfg, mesh)
        self._start = adapt.begin(recipe, model.cfg, model.params, settings.seed)
        ends = sorted({self._form.end, *model.eos})
        cfg, groups = recipe.model(model.cfg), self._trainer.groups
        self._write = [Decoder(decoder, cfg, rows, ends, chunk=CHUNK) for _ in groups]
        self._params = [sharding.of_group(model.params, self._trainer.mesh, one) for one in groups]
        self._longest = min(settings.longest, model.cfg.context or settings.longest)

    def __call__(self, group: Sequence[Question], wanted: set[str], watch: Watch) -> Iterator[Outcome]:
        courses = []
        for task in group:
            watch.over()
            watch.tell(f"{task.id}: texts")
            courses.append(self._course(task))

        def outcome(number: int, trained: adapt.Trained, own: Watch) -> Outcome:
            return self._outcome(group[number], courses[number], trained, own)

        how = (self._trainer, self._model.params, self._start, courses, self._tasks)
        yield from by_training(*how, group, wanted, watch, outcome)

    def _course(self, task: Question) -> adapt.Course:
        how, lessons = self._settings, {}

        def tokens(puzzle: puzzles.Puzzle) -> int:
            lessons[puzzle.key] = self._form.lesson(puzzle, how.loss)
            return len(lessons[puzzle.key][0])

        chosen = puzzles.training(task, how.seed, tokens, most=how.most, longest=self._longest)
        rng = generator(how.seed, task.id, "order")
        return adapt.course([lessons[puzzle.key] for puzzle in chosen], self._recipe, rng)

    def _outcome(self, task: Question, course: adapt.Course, trained: adapt.Trained, watch: Watch) -> Outcome:
        numbers = {"puzzles": len(course.lessons), **trained.told()}
        if fault := trained.fault():
            return Outcome(task.id, "failed", fault, numbers=numbers)
        weights = trained.weights
        lines, numbers["prompts"], numbers["grids"], cut = self._answers(task, weights, trained.group, watch)
        reasons = []
        if not trained.updates and self._settings.most:
            reasons.append("zero-shot: " + self._why_untrained(task))
        elif len(trained.losses) < trained.updates:
            reasons.append("the time for training was over")
        if cut:
            reasons.append(cut)
        status = "skipped" if not numbers["prompts"] else "partial" if reasons else "ok"
        adapter = (weights["lora"], self._recipe.lora) if trained.losses else None
        return Outcome(task.id, status, "; ".join(reasons) or None, lines, numbers=numbers, adapter=adapter)

    def _why_untrained(self, task: Question) -> str:
        if len(task.demonstrations) < 2:
            return "one demonstration leaves none to learn from"
        return f"no {self._recipe.batch} puzzles of fewer than {self._longest} tokens"

    def _answers(self, task: Question, weights: dict, group: int, watch: Watch) -> tuple[list[Line], int, int, str]:
        """(candidates, prompts, those that were answered with a grid, why there are not more or "")."""

        def tokens(puzzle: puzzles.Puzzle) -> int:
            return len(self._form.question(puzzle))

        asked = [
            (test, view, self._form.question(puzzle))
            for test in range(len(task.inputs))
            for view, puzzle in puzzles.asked(task, test, self._settings.seed, tokens, longest=self._longest)
        ]
        if not asked:
            return [], 0, 0, f"no prompt has fewer than {self._longest} tokens"
        sizes = np.array([len(ids) for *_, ids in asked])

        late = False

        def stop(number: int, written: np.ndarray) -> bool:
            nonlocal late
            whole = prompts.settled(self._model.words.decode(written)) or sizes[number] + len(written) >= self._longest
            late |= watch.over() and not whole
            return late or whole

        def on_batch(done: int, total: int) -> bool:
            nonlocal late
            watch.tell(f"{task.id}: prompt {done} of {total}")
            late |= watch.over()
            return late

        params = adapt.adapted(self._params[group], weights, self._recipe)
        outputs: dict[int, list] = {test: [] for test in range(len(task.inputs))}
        most = self._longest - int(sizes.min())
        for batch in self._write[group](params, lambda n: {"inputs": asked[n][2]}, sizes, most, on_batch, stop=stop):
            for one in batch:
                test, view, _ = asked[one.prompt]
                grid = prompts.parse_answer(self._model.words.decode(one.tokens))
                if grid is not None:
                    outputs[test].append((view, puzzles.undone(grid, view)))
        lines = []
        for test, found in outputs.items():
            for grid in vote(found):
                count = sum(np.array_equal(grid, other) for _, other in found)
                lines.append(Line(task.id, test, grid, weight=count))
        return lines, len(asked), sum(map(len, outputs.values())), "the time was over" if late else ""
