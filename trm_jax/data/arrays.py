"""The official array format: `{split}/all__*.npy`, `{split}/dataset.json`, `identifiers.json`.

Read for any task with one set, `all`. example < puzzle (one augmentation) < group (one
original): `puzzle_indices` cuts the examples into puzzles and `group_indices` the puzzles into groups, both
int32 with a leading 0. Tokens are of any whole-number type.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass

import numpy as np

from trm_jax.data.dataset import IGNORED, Batch, DatasetInfo
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path, local_copy, replacement, write_whole

_ARRAYS = ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")


@dataclass(frozen=True)
class ArraySplit:
    """One split of a data set as the official code stores it; by itself an `EvalSource` of all its examples."""

    inputs: np.ndarray  # [N, S] tokens
    labels: np.ndarray  # [N, S] tokens
    puzzle_identifiers: np.ndarray  # [P] int32
    puzzle_indices: np.ndarray  # [P + 1] int32, the first example of each puzzle
    group_indices: np.ndarray  # [G + 1] int32, the first puzzle of each group
    vocab_size: int
    num_puzzle_identifiers: int = 1
    ignore_label_id: int | None = 0  # label token that is not scored; None: every label is
    origin: str = ""

    @property
    def info(self) -> DatasetInfo:
        """The data set's numbers."""
        puzzles = len(self.puzzle_identifiers)
        return DatasetInfo(self.vocab_size, self.inputs.shape[1], self.num_puzzle_identifiers,
                           len(self.group_indices) - 1, len(self.inputs) / max(puzzles, 1))  # fmt: skip

    @functools.cached_property
    def digest(self) -> str:
        """Identifies the examples, whatever their type in the files."""
        return hashlib.sha256(np.stack([self.inputs, self.labels]).astype(np.int32)).hexdigest()

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, indices: np.ndarray) -> Batch:
        """The examples at `indices` [b]."""
        labels = self.labels[indices].astype(np.int32)
        if self.ignore_label_id is not None:
            labels[labels == self.ignore_label_id] = IGNORED
        puzzles = np.searchsorted(self.puzzle_indices, indices, side="right") - 1
        return {
            "inputs": self.inputs[indices].astype(np.int32),
            "labels": labels,
            "puzzle_ids": self.puzzle_identifiers[puzzles].astype(np.int32),
        }


@dataclass(frozen=True)
class StoredPool:
    """A `Pool` of stored examples: the variants of a group are the examples of all its puzzles."""

    split: ArraySplit
    chosen: np.ndarray | None = None  # [G] the groups of the split that the pool has; None: all

    @functools.cached_property
    def _examples(self) -> np.ndarray:
        """[2, G] int64: the first example of each group, and how many it has."""
        starts = self.split.puzzle_indices[self.split.group_indices].astype(np.int64)
        return np.stack([starts[:-1], np.diff(starts)])[:, slice(None) if self.chosen is None else self.chosen]

    @property
    def variants(self) -> np.ndarray:
        """[G] int64: the number of examples in each group."""
        return self._examples[1]

    def examples(self, groups: np.ndarray, variants: np.ndarray) -> Batch:
        """The examples (groups[b], variants[b])."""
        return self.split.rows(self._examples[0, groups] + variants)


def read_split(folder: str | AnyPath, split: str) -> ArraySplit:
    """Read `folder/{train|test}`. `total_puzzles` is ignored: the official builder writes the number of groups.

    Raises `InputError` naming the file for anything missing or at odds with the rest.
    """
    place = as_path(folder) / split
    meta = _json(place / "dataset.json")
    arrays = [_array(place / f"all__{name}.npy") for name in _ARRAYS]
    inputs, labels, ids, puzzles, groups = arrays
    demands = (
        (inputs.ndim == 2 and inputs.shape == labels.shape, "inputs and labels differ in shape"),
        (meta.get("seq_len", inputs.shape[-1]) == inputs.shape[-1], "seq_len is not the arrays' width"),
        (_index(puzzles, len(inputs)), "puzzle_indices does not run from 0 to the number of examples"),
        (_index(groups, len(puzzles) - 1), "group_indices does not run from 0 to the number of puzzles"),
        (len(ids) == len(puzzles) - 1, "puzzle_identifiers has not one id per puzzle"),
        (meta.get("total_groups", len(groups) - 1) == len(groups) - 1, "total_groups is not the number of groups"),
    )
    for holds, message in demands:
        if not holds:
            raise _damaged(place, message)
    for what, parts, end in (
        ("token", (inputs, labels), meta["vocab_size"]),
        ("puzzle id", (ids,), meta["num_puzzle_identifiers"]),
    ):
        if any(part.size and not 0 <= part.min() <= part.max() < end for part in parts):
            raise _damaged(place, f"a {what} lies outside 0..{end - 1}")
    sizes = meta["vocab_size"], meta["num_puzzle_identifiers"]
    return ArraySplit(*arrays, *sizes, meta.get("ignore_label_id"), origin=str(place))


def _damaged(path: AnyPath, message: str) -> InputError:
    return InputError(f"{path}: {message}; copy the data set once more, all files from one build")


def _index(v: np.ndarray, end: int) -> bool:
    return v.ndim == 1 and len(v) > 1 and v[0] == 0 and v[-1] == end and (v[1:] > v[:-1]).all()


def _json(path: AnyPath) -> dict:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; name a folder in the official array format") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise _damaged(path, f"not JSON ({error})") from None
    if not isinstance(meta, dict):
        raise _damaged(path, "no JSON object")
    for key in ("vocab_size", "num_puzzle_identifiers"):
        if type(meta.get(key)) is not int:
            raise _damaged(path, f"{key} is {meta.get(key)!r}, no whole number")
    if meta.get("sets", ["all"]) != ["all"]:
        raise InputError(f"{path}: sets is {meta['sets']}, only ['all'] is known")
    return meta


def _array(path: AnyPath) -> np.ndarray:
    try:
        with local_copy(path) as copy:
            values = np.load(copy, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; the folder is not a whole data set, copy all its files") from None
    except (ValueError, EOFError) as error:
        raise _damaged(path, f"not a whole .npy file ({error})") from None
    if not isinstance(values, np.ndarray) or not values.ndim or not np.issubdtype(values.dtype, np.integer):
        raise _damaged(path, f"holds {getattr(values, 'dtype', 'several arrays')}, no list of whole numbers")
    return values


def write_split(folder: str | AnyPath, split: str, data: ArraySplit) -> None:
    """Write one split, every file in one step; `dataset.json` comes last."""
    place, info = as_path(folder) / split, data.info
    for name in _ARRAYS:
        values = getattr(data, name)
        values = values.astype(np.uint8 if name in ("inputs", "labels") and data.vocab_size <= 256 else np.int32)
        with replacement(place / f"all__{name}.npy") as new, new.open("wb") as file:
            np.save(file, values)
    meta = {
        "pad_id": 0,
        "ignore_label_id": data.ignore_label_id,
        "blank_identifier_id": 0,
        "vocab_size": data.vocab_size,
        "seq_len": info.seq_len,
        "num_puzzle_identifiers": data.num_puzzle_identifiers,
        "total_groups": info.groups,
        "mean_puzzle_examples": info.mean_examples_per_puzzle,
        "total_puzzles": len(data.puzzle_identifiers),
        "sets": ["all"],
    }
    write_whole(place / "dataset.json", json.dumps(meta).encode())
