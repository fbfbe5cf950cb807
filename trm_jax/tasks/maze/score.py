"""Verdicts on answers to mazes, on the device."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from trm_jax.tasks.maze.grids import GOAL, START, WALL


def _neighbours(cells: jax.Array) -> jax.Array:
    """[4, B, H, W]: the cell above, below, left and right of each of cells [B, H, W]; False beyond the edge."""
    rows, columns = jnp.pad(cells, ((0, 0), (1, 1), (0, 0))), jnp.pad(cells, ((0, 0), (0, 0), (1, 1)))
    return jnp.stack([rows[:, :-2], rows[:, 2:], columns[:, :, :-2], columns[:, :, 2:]])


def verdicts(answers: jax.Array, inputs: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
    """Of answers [B, H, W] to mazes with labels, all int32 tokens: {"valid_optimal" [B], "simple" [B]} bool.

    The path is the cells answered as start, goal or path. Both demand that it holds the maze's start and goal and no
    wall, and is 4-connected. valid_optimal: it has as many cells as a shortest path, which the label has. simple: it is
    one path from start to goal of any length, no two cells of which touch beside it.
    """
    path, ends = answers >= START, (inputs == START) | (inputs == GOAL)
    allowed = ((path | ~ends) & ~(path & (inputs == WALL))).all((1, 2))
    path &= allowed[:, None, None]  # of the others nothing is asked, and the search is over sooner

    def spread(state):
        reached, _ = state
        further = path & (reached | _neighbours(reached).any(0))
        return further, (further != reached).any()

    first = path & (inputs == START)
    reached, _ = lax.while_loop(lambda state: state[1], spread, (first, first.any()))
    whole = allowed & (reached == path).all((1, 2))
    degree = (path & _neighbours(path)).sum(0)
    of_a_path = ~path | (degree == jnp.where(ends, 1, 2))
    shortest = (labels >= START).sum((1, 2)) == path.sum((1, 2))
    return {"valid_optimal": whole & shortest, "simple": whole & of_a_path.all((1, 2))}
