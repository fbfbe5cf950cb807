"""Test inputs in all their forms as prompts, and what was written behind them as votes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from trm_jax.tasks.arc.files import Tasks
from trm_jax.tasks.arc.vote import Ballot
from trm_jax.tasks.dihedral import INVERSE, dihedral
from trm_jax.tasks.pairs.augment import augmentations
from trm_jax.tasks.pairs.source import DIHEDRAL_IDS, Pairs, made
from trm_jax.tasks.pairs.tokens import PLACES, length_of, parse, write_pair


class Questions:
    """N prompts: each test input of `tasks` under each of its augmentations, task by task, itself first."""

    def __init__(self, tasks: Tasks, numbers: Mapping[str, int], cap: int, seed: int):
        """numbers: the ids of the tasks. Augmentations are drawn anew, over demonstrations and test inputs together."""
        items, drawn, self._of = [], [], []
        for name, task in tasks.items():
            inputs = [pair.input for pair in task.pairs]
            found = augmentations(task, inputs, cap, seed, numbers[name])
            drawn += found[len(task.train) :]
            for test, pair in enumerate(task.test):
                items.append((numbers[name], pair.input, np.zeros((1, 1), np.uint8)))
                self._of.append((name, test))
        self.pairs: Pairs = made(items, drawn)
        self._pair = np.repeat(np.arange(len(items)), np.diff(self.pairs.first))
        sizes = self.pairs.sizes[self._pair]
        # A prompt ends at the separator: the output of one cell, its line and the end are not there.
        self.sizes = np.array([length_of(*one) for one in zip(sizes, self.pairs.symmetries, strict=True)]) - 3

    def __len__(self) -> int:
        return len(self._pair)

    def prompt(self, number: int, answer: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """One prompt: {"inputs", "puzzle_ids", "dihedrals" [n], "places" [n, 4]} int32.

        answer: of the test input as it is; its image under the prompt's augmentation stands behind the prompt.
        """
        p, symmetry = self._pair[number], int(self.pairs.symmetries[number])
        cells, shape, size = self.pairs.cells[p], self.pairs.sizes[p], self.sizes[number]
        if answer is not None:
            cells, shape = cells.copy(), shape.copy()
            cells[1, : answer.shape[0], : answer.shape[1]], shape[1] = answer, answer.shape
            size = length_of(shape, symmetry)
        tokens, places = np.empty(size, np.int32), np.empty((size, PLACES), np.int32)
        write_pair(cells, shape, symmetry, self.pairs.colors[number], tokens, places, 0, answer is None)
        task, turned = self.pairs.tasks[p], DIHEDRAL_IDS[symmetry]
        ids = {"puzzle_ids": np.full(size, task, np.int32), "dihedrals": np.full(size, turned, np.int32)}
        return {"inputs": tokens, "places": places, **ids}

    def test(self, number: int) -> tuple[str, int]:
        """(task, test pair) of a prompt."""
        return self._of[self._pair[number]]

    @property
    def tasks(self) -> np.ndarray:
        """[N]: the task of each prompt, by its id."""
        return self.pairs.tasks[self._pair]

    @property
    def firsts(self) -> np.ndarray:
        """[T]: the first prompt of each test pair."""
        return self.pairs.first[:-1]

    def answer(self, number: int, tokens: np.ndarray) -> np.ndarray | None:
        """The grid that was written behind a prompt, its augmentation undone; None for no grid or the prompt's own."""
        grid = parse(tokens)
        if grid is None:
            return None
        p, symmetry = self._pair[number], int(self.pairs.symmetries[number])
        back = np.argsort(self.pairs.colors[number]).astype(np.uint8)[dihedral(grid, INVERSE[symmetry])]
        height, width = self.pairs.sizes[p, 0]
        return None if np.array_equal(back, self.pairs.cells[p, 0, :height, :width]) else back

    def vote(self, ballot: Ballot, number: int, tokens: np.ndarray, log_prob: float) -> bool:
        """Count what was written behind a prompt, if it is an answer; log_prob: its mean."""
        grid = self.answer(number, tokens)
        if grid is not None:
            ballot.add(*self.test(number), grid, position=number, q=log_prob)
        return grid is not None
