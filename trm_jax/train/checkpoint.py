"""Checkpoints by Orbax: asynchronous, verified when read, restored onto any device count.

A checkpoint holds the whole `TrainState` and a small JSON `meta`: the run's clocks and a fingerprint of every array.
Orbax notices torn files; the fingerprint notices flipped bits. A damaged newest checkpoint is set aside and the one
before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache, partial

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy as keeping

from trm_jax.distributed.process_group import ProcessGroup
from trm_jax.errors import InputError, OutOfReach
from trm_jax.models.params import path_name
from trm_jax.sharding import replicated
from trm_jax.storage.bucket import out_of_reach
from trm_jax.storage.paths import require_access
from trm_jax.train.config import CheckpointConfig
from trm_jax.train.state import TrainState

_WRITTEN_WITHIN_S = 300  # by all processes, else the save has failed: one of them may have no answer from its storage


@jax.jit
def _fingerprint(leaves: list) -> list[jax.Array]:
    """One uint32 per array: its words weighted by odd numbers of their places, summed modulo 2**32.

    Integer sums do not depend on their order, so neither does the fingerprint on the sharding.
    """

    def one(x):
        words = jnp.ravel(x)
        if words.dtype == bool:
            words = words.astype(jnp.uint8)
        words = jax.lax.bitcast_convert_type(words, jnp.dtype(f"uint{8 * words.dtype.itemsize}")).astype(jnp.uint32)
        places = jax.lax.iota(jnp.uint32, words.size) * jnp.uint32(2) + jnp.uint32(1)
        return jnp.sum(words * places, dtype=jnp.uint32)

    return [one(leaf) for leaf in leaves]


def fingerprint(tree) -> dict[str, int]:
    """Fingerprint of each array of a tree, by its path."""
    paths, leaves = zip(*jax.tree_util.tree_leaves_with_path(tree), strict=True)
    values = jax.device_get(_fingerprint(list(leaves)))
    return {path_name(path): int(value) for path, value in zip(paths, values, strict=True)}


class Damaged(ValueError):
    """A checkpoint that cannot be read as it was saved; the message says why, on one line."""


class _Manager(ocp.CheckpointManager):
    """Orbax's, for which a score that cannot be read is as good as one that is not there."""

    def __init__(self, folder: epath.Path, headline: str, say: Callable[[str], None], **how):
        self._headline, self._tell_once = headline, cache(say)
        super().__init__(folder, **how)  # which reads all scores

    def metrics(self, step: int) -> dict | None:
        try:
            found = super().metrics(step)
        except ValueError:  # torn, or not text
            found = {}
        if found is None or isinstance(found, dict) and isinstance(found.get(self._headline), int | float):
            return found
        self._tell_once(f"note: the score of checkpoint {self.directory}/{step} is damaged; it is not taken for best")
        return None


class Checkpoints:
    """The checkpoints of one run under `folder` (local or gs://).

    Raises what Orbax raises when a save fails: at the next `save`, `wait` or `close`, never silently.
    """

    def __init__(
        self,
        folder: str,
        headline: str,
        policy: CheckpointConfig | None = None,
        say: Callable[[str], None] = print,
        group: ProcessGroup | None = None,
    ):
        """headline: the score by which the best one is told; `policy` None opens for reading only; `say` takes lines
        that a person should see; all processes of the `group` save and restore together."""
        self.folder = epath.Path(folder)
        self._headline, self._policy, self._say = headline, policy, say
        self._group = group or ProcessGroup()
        if str(folder).startswith("gs://"):
            require_access(self.folder, write=policy is not None)
        self._open()

    def _rank(self, metrics: dict) -> float:
        value = metrics[self._headline]
        return -value if self._headline.endswith("loss") else value

    def _open(self) -> None:
        policy, keep, read_only = self._policy, None, self._policy is None
        if policy is not None:
            best = {"n": policy.keep_best, "keep_checkpoints_without_metrics": False}
            rules = [keeping.LatestN(policy.keep_last), keeping.BestN(get_metric_fn=self._rank, **best)]
            if policy.keep_every_steps:
                rules.append(keeping.EveryNSteps(policy.keep_every_steps))
            keep = keeping.AnyPreservationPolicy(rules)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=keep,
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            best_fn=self._rank,
            async_options=ocp.AsyncOptions(timeout_secs=_WRITTEN_WITHIN_S),
        )
        self._handlers = {"state": ocp.PyTreeCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        self._manager = _Manager(self.folder, self._headline, self._say, options=options, item_handlers=self._handlers)

    def steps(self) -> list[int]:
        """Steps of the finished checkpoints, ascending: as process 0 sees them, for a file system may lag."""
        return self._group.share(lambda: sorted(self._manager.all_steps(read=True)))

    def best_step(self) -> int | None:
        return self._manager.best_step()

    def save(self, step: int, state: TrainState, meta: Mapping, score: float | None = None) -> bool:
        """Start saving; False when there is a checkpoint of this step already. score: the headline, once evaluated.

        One that was saved without a score, because a stop cut its evaluation short, gives way to one with it.
        """
        if self._group.share(lambda: step in self._manager.all_steps()):
            self._manager.wait_until_finished()  # it may be the one under way, whose score is not written yet
            # The only checkpoint is not given up: a kill before its successor is durable would lose everything.
            if score is None or self._group.share(
                lambda: bool(self._manager.metrics(step)) or len(self._manager.all_steps()) == 1
            ):
                return False
            self._manager.delete(step)
        meta = {**meta, "fingerprint": fingerprint(state)}
        args = ocp.args.Composite(state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(meta))
        metrics = None if score is None else {self._headline: score}
        return self._manager.save(step, args=args, metrics=metrics, force=True)

    def _as_stored(self, step: int, abstract: dict) -> dict:
        """`abstract` with the shapes in which checkpoint `step` holds its arrays: versions cut axes differently.

        Raises InputError when it does not hold the arrays that are asked for.
        """
        tree = self._handlers["state"].metadata(self.folder / str(step) / "state").tree
        found = {path_name(path): array for path, array in jax.tree_util.tree_leaves_with_path(tree)}

        def one(path, want):
            name = path_name(path)
            there = found.get(name)
            shape = () if there is None else tuple(there.shape)
            cut = len(shape) != want.ndim and shape[:1] == want.shape[:1] and math.prod(shape) == want.size
            if there is None or jnp.dtype(there.dtype) != want.dtype or not (cut or shape == want.shape):
                said = "absent" if there is None else f"{jnp.dtype(there.dtype)} {list(there.shape)}"
                raise InputError(
                    f"checkpoint {self.folder}/{step} is of another model: {name} is {said} there and "
                    f"{want.dtype} {list(want.shape)} here; use its own config, or another workdir"
                )
            if shape == want.shape:
                return want
            return jax.ShapeDtypeStruct(shape, want.dtype, sharding=replicated(want.sharding.mesh))

        return jax.tree_util.tree_map_with_path(one, abstract)

    def restore(self, step: int, abstract) -> tuple:
        """(state, meta) of checkpoint `step`, laid out as `abstract` says: a TrainState or a dict of parts of one.

        Raises Damaged; InputError for one of another model; when the storage cannot be reached, its error.
        """
        problem = None
        try:
            state, meta = self._read(step, abstract if isinstance(abstract, dict) else dict(vars(abstract)))
        except InputError as error:
            problem = error
        except Exception as error:  # noqa: BLE001 - Orbax and tensorstore raise many kinds for a torn file
            lines = str(error).strip().splitlines() or [type(error).__name__]
            # A device without room for it says nothing of the file.
            kept = out_of_reach(error) or isinstance(error, MemoryError | jax.errors.JaxRuntimeError)
            problem = error if kept else Damaged(lines[0][:200])
        # Every process raises alike, or some would take for damaged what others could not reach.
        kind = next((kind for kind in (InputError, Damaged) if isinstance(problem, kind)), OutOfReach)
        said = self._group.gather(problem and [kind.__name__, str(problem) or type(problem).__name__])
        for kind in (OutOfReach, InputError, Damaged):
            for index, one in enumerate(said):
                if one and one[0] == kind.__name__:
                    if problem and self._group.index == index:
                        raise problem
                    raise kind(one[1] if kind is InputError else f"{one[1]}, says {self._group.name(index)}")
        want = meta["fingerprint"]
        damaged = [name for name, value in fingerprint(state).items() if value != want.get(name)]
        if damaged:
            raise Damaged(f"the contents of {', '.join(damaged[:3])} are not what was saved")
        return (state if isinstance(abstract, dict) else TrainState(**state)), meta

    def _read(self, step: int, abstract) -> tuple:
        # By the handlers and not by the manager, at whose barrier the others would wait for one that cannot read.
        stored = self._as_stored(step, abstract)
        how = ocp.checkpoint_utils.construct_restore_args(stored)
        args = ocp.args.PyTreeRestore(stored, restore_args=how, partial_restore=True)
        folder = self.folder / str(step)
        meta = self._handlers["meta"].restore(folder / "meta", args=ocp.args.JsonRestore())
        state = self._handlers["state"].restore(folder / "state", args=args)

        def reshaped(want, array):
            if array.shape == want.shape:
                return array
            return jax.jit(partial(jnp.reshape, shape=want.shape), out_shardings=want.sharding)(array)

        return jax.tree.map(reshaped, abstract, state), meta

    def restore_latest(self, abstract: TrainState) -> tuple | None:
        """(step, state, meta) of the newest checkpoint that can be read, or None.

        A damaged one is renamed to `damaged-STEP` with one line that says so; when all are damaged, InputError. When
        the storage cannot be reached, its error: such a checkpoint is not damaged.
        """
        damaged = []
        for step in reversed(self.steps()):
            try:
                state, meta = self.restore(step, abstract)
            except Damaged as error:
                self._say(f"checkpoint {self.folder}/{step} is damaged ({error}); going back to the one before it")
                damaged.append(step)
                continue
            self._set_aside(damaged)
            return step, state, meta
        if damaged:
            raise InputError(
                f"all checkpoints in {self.folder} are damaged ({', '.join(map(str, damaged))}); "
                "move the workdir away to start again"
            )
        return None

    def _set_aside(self, steps: list[int]) -> None:
        if not steps or self._policy is None:
            return
        self._manager.close()

        def rename():
            for step in steps:
                target = self.folder / f"damaged-{step}"
                if target.exists():
                    target.rmtree()
                (self.folder / str(step)).rename(target)

        self._group.share(rename)
        self._open()

    def wait(self) -> None:
        """Block until every save is on disk; raises what went wrong with one."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()


def pick_step(checkpoints: Checkpoints, which: str) -> int:
    """The step that "latest", "best" or a number names. Raises InputError when there is no such checkpoint."""
    steps = checkpoints.steps()
    if not steps:
        raise InputError(f"no checkpoint in {checkpoints.folder}; train first: trm train NAME --workdir DIR")
    best = checkpoints.best_step()
    named = {"latest": steps[-1], "best": steps[-1] if best is None else best, **{str(step): step for step in steps}}
    if which not in named:
        raise InputError(f"no checkpoint {which!r} in {checkpoints.folder}; there are {', '.join(map(str, steps))}")
    return named[which]
