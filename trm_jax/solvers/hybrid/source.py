"""Training and evaluation data of a hybrid, and the vote with feedback from the demonstrations."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from trm_jax.data.dataset import DatasetInfo
from trm_jax.errors import InputError
from trm_jax.solvers.hybrid import HybridConfig
from trm_jax.solvers.hybrid.features import Features, folder_of, read
from trm_jax.tasks import Progress
from trm_jax.tasks.arc import source as arc
from trm_jax.tasks.arc.grids import crop
from trm_jax.tasks.arc.verify import notes
from trm_jax.tasks.dihedral import dihedral


@dataclass(frozen=True, eq=False)
class Given:
    """What comes with the data: the features, and by which row each text finds them."""

    features: Features
    order: np.ndarray  # [N] int64
    share: float

    def __call__(self, like: Mapping) -> dict:
        return self.features.tables(like, self.order, self.share)


@dataclass(frozen=True, eq=False)
class HybridTrain(arc.ArcTrain):
    """Training data, with the parameters that are given and not learned."""

    given: Given | None = None

    def offsets(self, groups: np.ndarray, variants: np.ndarray, examples: np.ndarray) -> np.ndarray:
        return np.zeros((len(groups), 2), np.int64)  # a text does not tell where a grid lies

    @property
    def whole(self) -> list[str]:
        """The tasks whose test pairs train too."""
        trained = zip(self.data.tasks, self.lengths, np.diff(self.data.pairs), strict=True)
        return [name for name, length, pairs in trained if length == pairs]


@dataclass(frozen=True, eq=False)
class HybridEval(arc.ArcEval):
    """The test pairs of the tested tasks in every view; with feedback all pairs, the demonstrations first."""

    fit: bool = False
    feedback: bool = False
    given: Given | None = None
    trained: arc.Tasks = field(default_factory=dict)  # by a name, the tasks of which some pairs train

    def of_run(self, settings: Sequence[HybridConfig]) -> HybridEval:
        """The same for a model that was trained under these settings: what is said of it does not depend on others."""
        runs = [sources(cfg) for cfg in settings]
        fit = any(not self.tasks.keys().isdisjoint(train.whole) for train, _ in runs)
        learned = [name for _, test in runs for name in test.learned] + [f"{self.name}:all"] * fit
        trained = {name: task for train, _ in runs for name, task in train.data.tasks.items()}
        return dataclasses.replace(self, fit=fit, learned=tuple(dict.fromkeys(learned)), trained=trained)

    @functools.cached_property
    def _tests(self) -> np.ndarray:
        return np.diff(self.data.pairs)[self.tested] if self.feedback else super()._tests

    def places(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        groups, variants, pairs = super().places(indices)
        return groups, variants, pairs - self.shown[groups] * self.feedback  # a demonstration is a test below 0

    def notes(self) -> tuple[str, ...]:
        if self.fit:
            return (f"the answers of {self.name} are trained on: a score says how well they are fitted",)
        others = {name: task for name, task in self.trained.items() if name not in self.tasks}
        tested = {
            name: task
            if name in self.trained
            else dataclasses.replace(task, train=())  # its demonstrations are new too
            for name, task in self.tasks.items()
        }
        return notes(tested, others, self.name)

    def ballot(self) -> HybridBallot:
        return HybridBallot(self)


class HybridBallot(arc.EvalBallot):
    """Votes of a model that tells its answers after every step, [b, steps, 900] and [b, steps].

    With feedback a view's vote is that of the step by which most of its demonstrations were right, each predicted from
    the others; among equals of the step that is surest to be done, by the halting head. The share of demonstrations
    counts for as much as the halting head where votes are even. Nothing here reads an answer to a test input.
    """

    kind = "hybrid"

    def __init__(self, source: HybridEval):
        super().__init__(source)
        self._view, self._right = None, []  # of the view that comes in: [steps] bool of each demonstration

    def add(self, indices: np.ndarray, answers: np.ndarray, q_halt: np.ndarray) -> None:
        if q_halt.ndim == 1:  # of rows that stopped by themselves, each after a step of its own
            answers, q_halt = answers[:, None], q_halt[:, None]
        if not self.source.feedback:
            super().add(indices, answers[:, -1], q_halt[:, -1])
            return
        from scipy.special import expit

        data, places = self.source.data, self.source.places(indices)
        for row, (group, variant, test) in enumerate(zip(*(x.tolist() for x in places), strict=True)):
            if (group, variant) != self._view or not indices[row]:  # another view, or another model's answers
                self._view, self._right = (group, variant), []
            if test < 0:
                pair = data.pairs[group] + self.source.shown[group] + test
                height, width = data.sizes[pair, 1]
                puzzle = data.puzzles[group] + variant
                grid = data.colors[puzzle][data.cells[pair, 1, :height, :width]]
                wanted = dihedral(grid, int(data.symmetries[puzzle]))
                self._right.append([np.array_equal(crop(answer), wanted) for answer in answers[row]])
                continue
            right = np.mean(self._right, axis=0)
            sure = expit(q_halt[row].astype(np.float64))
            step = int(np.lexsort((sure, right))[-1])
            self.count(indices[row : row + 1], answers[row : row + 1, step], np.array([(right[step] + sure[step]) / 2]))


@functools.lru_cache(maxsize=2)
def sources(cfg: HybridConfig) -> tuple[HybridTrain, HybridEval]:
    """Both without features."""
    train, test = arc.load(cfg)
    data, pairs = train.data, np.diff(train.data.pairs)
    views = np.diff(data.puzzles)
    counts = np.repeat(pairs, views)  # texts of each puzzle
    data = dataclasses.replace(data, ids=(np.cumsum(counts) - counts).astype(np.int32), by_pair=True)
    lengths = pairs if cfg.fit else train.lengths
    info = DatasetInfo(
        train.info.vocab_size,
        train.info.seq_len,
        int(counts.sum()),
        len(data.tasks),
        float((views * lengths).sum() / views.sum()),
    )
    learned = *[f"{test.name}:all"] * cfg.fit, *test.learned
    how = {"fit": cfg.fit, "feedback": cfg.feedback, "trained": data.tasks}
    return (
        HybridTrain(info, data, lengths, cfg.side, cfg.seed),
        HybridEval(info, data, test.tested, cfg.side, test.name, learned, **how),
    )


def with_features(cfg: HybridConfig, progress: Progress | None) -> tuple[HybridTrain, HybridEval]:
    """Both, their texts read by the language model or found in the folder of features."""
    train, test = sources(cfg)
    features = read(folder_of(cfg), cfg.llm, cfg.layer, cfg.limit, train.data, progress)
    if cfg.control == "shuffled" and len(train.data.tasks) == 1:
        raise InputError("data.control=shuffled gives each task another one's features, and there is one task alone")
    order = _of_the_next_task(train.data) if cfg.control == "shuffled" else np.arange(len(features.sizes))
    given = Given(features, order, float(cfg.control != "zeros"))
    return dataclasses.replace(train, given=given), dataclasses.replace(test, given=given)


def _of_the_next_task(data: arc.Augmented) -> np.ndarray:
    """[N]: for each text one of the next task, of the same view and pair as far as it has so many."""
    pairs, views = np.diff(data.pairs), np.diff(data.puzzles)
    found = []
    for group in range(len(pairs)):
        other = (group + 1) % len(pairs)
        for view in range(views[group]):
            first = data.ids[data.puzzles[other] + view % views[other]]
            found.append(first + np.arange(pairs[group]) % pairs[other])
    return np.concatenate(found)
