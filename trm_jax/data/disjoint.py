"""The check that no test puzzle is a training puzzle in disguise."""

from __future__ import annotations

import numpy as np

from trm_jax.data.boards import Boards
from trm_jax.data.canonical import canonical_forms, invariants
from trm_jax.errors import InputError


def overlap(train: Boards, test: Boards) -> tuple[int, int] | None:
    """Row numbers (in train, in test) of a puzzle that both hold up to symmetry; None if there is none.

    Only puzzles whose invariant occurs on both sides are brought into canonical form, so the check is exact and costs
    a few microseconds a puzzle.
    """
    if train.size != test.size:
        return None
    train_values = invariants(train.questions, train.answers, train.size)
    test_values = invariants(test.questions, test.answers, test.size)
    train_rows = np.flatnonzero(np.isin(train_values, test_values))
    test_rows = np.flatnonzero(np.isin(test_values, train_values))
    forms: dict[bytes, int] = {}
    for row in train_rows:
        form = canonical_forms(train.questions[row : row + 1], train.answers[row : row + 1], train.size)
        forms.setdefault(form.tobytes(), int(row))
    for row in test_rows:
        form = canonical_forms(test.questions[row : row + 1], test.answers[row : row + 1], test.size).tobytes()
        if form in forms:
            return forms[form], int(row)
    return None


def require_disjoint(train: Boards, test: Boards) -> None:
    """Raise `InputError` naming both rows if a puzzle stands in both splits up to symmetry."""
    pair = overlap(train, test)
    if pair is not None:
        raise InputError(
            f"the same puzzle (up to symmetry) is in {train.origin} line {train.rows[pair[0]]} and in {test.origin} "
            f"line {test.rows[pair[1]]}: remove one of them, or the test score means nothing"
        )
