"""The check that no test puzzle is a training puzzle in disguise."""

from __future__ import annotations

import numpy as np

from trm_jax.errors import InputError
from trm_jax.tasks.sudoku.boards import Boards
from trm_jax.tasks.sudoku.canonical import canonical_forms, invariants


def overlap(train: Boards, test: Boards) -> tuple[int, int] | None:
    """Row numbers (in train, in test) of a puzzle that both hold up to symmetry; None if there is none.

    Only puzzles whose invariant occurs on both sides are brought into canonical form, so the check is exact
    and costs a few microseconds a puzzle.
    """
    if train.size != test.size:
        return None
    train_values = invariants(train.questions, train.answers, train.size)
    test_values = invariants(test.questions, test.answers, test.size)
    train_rows = np.flatnonzero(np.isin(train_values, test_values))
    test_rows = np.flatnonzero(np.isin(test_values, train_values))
    train_forms = canonical_forms(train.questions[train_rows], train.answers[train_rows], train.size)
    forms = {form.tobytes(): int(row) for form, row in zip(train_forms, train_rows, strict=True)}
    test_forms = canonical_forms(test.questions[test_rows], test.answers[test_rows], test.size)
    for form, row in zip(test_forms, test_rows, strict=True):
        if form.tobytes() in forms:
            return forms[form.tobytes()], int(row)
    return None


def require_disjoint(train: Boards, test: Boards) -> None:
    """Raise `InputError` naming both rows if a puzzle stands in both splits up to symmetry."""
    pair = overlap(train, test)
    if pair is not None:
        raise InputError(
            f"{train.where(pair[0])} and {test.where(pair[1])} are the same puzzle up to symmetry: "
            "remove one of them, or the test score means nothing"
        )
