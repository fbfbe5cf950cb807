"""ARC with what a frozen language model made of each task: data.task=hybrid, for model.family=hybrid.

A puzzle of a batch is a text: one pair of a task in one view, asked behind the other demonstrations.
"""

from __future__ import annotations

from dataclasses import dataclass

from trm_jax.data.dataset import DatasetInfo, EvalSource, TrainSource
from trm_jax.errors import InputError
from trm_jax.settings import number, option
from trm_jax.tasks import Progress
from trm_jax.tasks.arc import ArcConfig, ArcTaskKind
from trm_jax.tasks.arc.grids import VOCAB_SIZE


@dataclass(frozen=True)
class HybridConfig(ArcConfig):
    """Settings of ARC, and what reads the tasks."""

    train_sets: str = "training@1-10"
    test_set: str = "training@1-10"
    augmentations: int = number(0)
    llm: str = "smollm2"  # a folder, a .gguf file or smollm2
    layer: int = -1  # whose states are taken; 0: the embeddings, -1: the last
    limit: int = number(2048, low=1)  # tokens of a text
    features: str = "features/smollm2"  # the folder that keeps the states
    control: str = option("none", "none", "zeros", "shuffled")  # of the features; shuffled: each task has another's
    fit: bool = True  # the answers of test_set train too: the score says how well they are fitted, nothing else
    feedback: bool = False  # evaluation asks the demonstrations too, and takes the step that has most of them right

    def __post_init__(self) -> None:
        if self.source == "arrays":
            raise InputError("data.source=arrays has no tasks to read; a hybrid needs data.source=tasks")
        super().__post_init__()


@dataclass(frozen=True)
class Known:
    """The numbers of a set, which need not be read to plan a run."""

    tasks: int
    puzzles: int
    texts: int
    tested: int  # test pairs of all puzzles


# By train_sets, test_set, augmentations: the smallest tasks of ARC-1's training set.
KNOWN = {
    ("training@1-10", "training@1-10", 0): Known(10, 10, 47, 11),
    ("training@1-10", "training@1-10", 7): Known(10, 80, 376, 88),
    ("training@1-2", "training@1-2", 0): Known(2, 2, 8, 2),
    ("training@11-15", "training@11-15", 0): Known(5, 5, 29, 7),
}


class HybridTask(ArcTaskKind):
    """ARC as a `Task` whose sources bring the features along."""

    Config = HybridConfig

    def _known(self, cfg: HybridConfig) -> Known | None:
        """By the settings, where what is known does for them."""
        return None if cfg.most_tokens else KNOWN.get((cfg.train_sets, cfg.test_set, cfg.augmentations))

    def info(self, cfg: HybridConfig) -> DatasetInfo:
        from trm_jax.solvers.hybrid.source import sources

        if not (found := self._known(cfg)):
            return sources(cfg)[0].info
        trained = found.texts - found.tested * (not cfg.fit)
        return DatasetInfo(VOCAB_SIZE, cfg.side**2, found.texts, found.tasks, trained / found.puzzles)

    def eval_size(self, cfg: HybridConfig) -> int:
        from trm_jax.solvers.hybrid.source import sources

        found = self._known(cfg)
        if not found:
            return len(sources(cfg)[1])
        return found.texts if cfg.feedback else found.tested

    def load(self, cfg: HybridConfig, *, progress: Progress | None = None) -> tuple[TrainSource, EvalSource]:
        from trm_jax.solvers.hybrid.source import with_features

        found = with_features(cfg, progress)
        if (known := self._known(cfg)) and known.texts != found[0].info.num_puzzle_ids:
            said = f"{cfg.path} has {found[0].info.num_puzzle_ids} texts where the public set has {known.texts}"
            raise InputError(f"{said}: name other tasks otherwise, by data.train_sets and data.test_set")
        return found

    def reader(self, cfg: HybridConfig) -> tuple[str, int]:
        """What reads before training, and the tokens of its longest text: for a plan."""
        return cfg.llm, cfg.limit

    def local(self, cfg: HybridConfig) -> dict[str, int | str]:
        small = {
            "train_sets": "training@1-2",
            "test_set": "training@1-2",
            "augmentations": 0,
            "side": 7,
            "llm": "smollm2",
        }
        return {**small, "features": f"{cfg.features}_local"}

    def seen(self, trained: HybridConfig, asked: HybridConfig) -> str:
        if asked.fit:
            return ""
        from trm_jax.solvers.hybrid.source import sources

        known = set(sources(trained)[0].whole) & sources(asked)[1].tasks.keys()
        return f"was trained on the answers of {', '.join(sorted(known)[:4])}" if known else ""

    def follows(self, trained: HybridConfig, asked: HybridConfig) -> None:
        from trm_jax.solvers.hybrid.features import same_states

        if not same_states(trained, asked):
            said = f"a run trained on what {trained.llm} reads, layer {trained.layer}, knows no other states"
            raise InputError(f"{said}; leave data.llm and data.layer as they were")
        if said := self.seen(trained, asked):
            raise InputError(f"the model {said}; with data.fit=False they would count as held out")

    def unseen(self, cfg: HybridConfig, path) -> dict[str, int | str]:
        say = "it knows tasks by their text: trm eval RUN --set data.path=... data.train_sets=... data.test_set=..."
        raise InputError(f"a hybrid learns no embedding for {path.name}; {say} data.features=... data.fit=False")


TASK = HybridTask()
