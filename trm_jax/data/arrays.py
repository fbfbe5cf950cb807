"""The official array format, any task: `{split}/all__*.npy`, `{split}/dataset.json`, `identifiers.json`.

example < puzzle (one augmentation) < group (one original): `puzzle_indices` cuts the examples into puzzles
and `group_indices` the puzzles into groups, both int32 with a leading 0.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trm_jax.data.dataset import IGNORED, Batch, DatasetInfo
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path, local_copy, replacement, write_whole

_ARRAYS = ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")
_KEYS = ("pad_id", "ignore_label_id", "blank_identifier_id", "vocab_size", "seq_len",
         "num_puzzle_identifiers", "total_groups", "mean_puzzle_examples", "sets")  # fmt: skip

_COUNTS = ("vocab_size", "seq_len", "num_puzzle_identifiers", "total_groups")


@dataclass(frozen=True)
class ArraySplit:
    """One split of a data set as the official code stores it (one set, `all`)."""

    inputs: np.ndarray  # [N, S] tokens
    labels: np.ndarray  # [N, S] tokens
    puzzle_identifiers: np.ndarray  # [P] int32
    puzzle_indices: np.ndarray  # [P + 1] int32, the first example of each puzzle
    group_indices: np.ndarray  # [G + 1] int32, the first puzzle of each group
    vocab_size: int
    num_puzzle_identifiers: int = 1
    pad_id: int = 0
    ignore_label_id: int | None = 0  # label token that is not scored; None: every label is
    blank_identifier_id: int = 0
    origin: str = ""

    @property
    def info(self) -> DatasetInfo:
        """The data set's numbers."""
        puzzles = len(self.puzzle_identifiers)
        return DatasetInfo(self.vocab_size, self.inputs.shape[1], self.num_puzzle_identifiers,
                           len(self.group_indices) - 1, len(self.inputs) / max(puzzles, 1))  # fmt: skip

    def metadata(self) -> dict[str, object]:
        """What `dataset.json` holds."""
        info = self.info
        return {
            "pad_id": self.pad_id,
            "ignore_label_id": self.ignore_label_id,
            "blank_identifier_id": self.blank_identifier_id,
            "vocab_size": self.vocab_size,
            "seq_len": info.seq_len,
            "num_puzzle_identifiers": self.num_puzzle_identifiers,
            "total_groups": info.groups,
            "mean_puzzle_examples": info.mean_examples_per_puzzle,
            "total_puzzles": len(self.puzzle_identifiers),
            "sets": ["all"],
        }


@dataclass(frozen=True)
class StoredPool:
    """A `Pool` of stored examples: the variants of a group are its puzzles, one example each."""

    split: ArraySplit

    def __post_init__(self) -> None:
        if (np.diff(self.split.puzzle_indices) != 1).any():
            raise InputError(f"{self.split.origin}: a puzzle with several examples: this task has one example each")

    @functools.cached_property
    def variants(self) -> np.ndarray:
        """[G] int64: the number of puzzles in each group."""
        return np.diff(self.split.group_indices).astype(np.int64)

    def examples(self, groups: np.ndarray, variants: np.ndarray) -> Batch:
        """The examples (groups[b], variants[b])."""
        puzzles = self.split.group_indices[groups] + variants
        rows = self.split.puzzle_indices[puzzles]
        labels = self.split.labels[rows].astype(np.int32)
        if self.split.ignore_label_id is not None:
            labels[labels == self.split.ignore_label_id] = IGNORED
        return {
            "inputs": self.split.inputs[rows].astype(np.int32),
            "labels": labels,
            "puzzle_ids": self.split.puzzle_identifiers[puzzles].astype(np.int32),
        }


def read_split(folder: str | AnyPath, split: str) -> ArraySplit:
    """Read `folder/{train|test}`. Older files have no `total_puzzles`.

    Raises `InputError` naming the file for anything missing or at odds with the rest.
    """
    place = as_path(folder) / split
    meta = _json(place / "dataset.json")
    missing = [key for key in _KEYS if key not in meta]
    if missing:
        raise InputError(f"{place / 'dataset.json'}: no key {', '.join(missing)}: build the data set anew")
    wrong = [key for key in _COUNTS if type(meta[key]) is not int]
    if wrong:
        raise InputError(f"{place / 'dataset.json'}: {wrong[0]} is {meta[wrong[0]]!r}, no whole number: build it anew")
    if meta["sets"] != ["all"]:
        raise InputError(f"{place / 'dataset.json'}: sets is {meta['sets']}, only ['all'] is known")
    arrays = {name: _array(place / f"all__{name}.npy") for name in _ARRAYS}
    inputs, labels = arrays["inputs"], arrays["labels"]
    puzzles, groups = arrays["puzzle_indices"], arrays["group_indices"]
    demands = (
        (inputs.ndim == 2 and inputs.shape == labels.shape, "inputs and labels differ in shape"),
        (inputs.ndim == 2 and inputs.shape[1] == meta["seq_len"], "seq_len is not the arrays' width"),
        (_index(puzzles, len(inputs)), "puzzle_indices does not run from 0 to the number of examples"),
        (_index(groups, len(puzzles) - 1), "group_indices does not run from 0 to the number of puzzles"),
        (
            len(arrays["puzzle_identifiers"]) == len(puzzles) - 1,
            "puzzle_identifiers has not one id per puzzle",
        ),
        (meta["total_groups"] == len(groups) - 1, "total_groups is not the number of groups"),
        (
            meta.get("total_puzzles", len(puzzles) - 1) == len(puzzles) - 1,
            "total_puzzles is not their number",
        ),
    )
    for holds, message in demands:
        if not holds:
            raise InputError(f"{place}: {message}: the files do not belong together, build the data set anew")
    top = max((int(part.max()) for part in (inputs, labels) if part.size), default=0)
    if top >= meta["vocab_size"] or min((int(p.min()) for p in (inputs, labels) if p.size), default=0) < 0:
        raise InputError(f"{place}: a token lies outside 0..{meta['vocab_size'] - 1} (vocab_size): build it anew")
    ids = arrays["puzzle_identifiers"]
    if ids.size and not 0 <= ids.min() <= ids.max() < meta["num_puzzle_identifiers"]:
        raise InputError(f"{place}: a puzzle id lies outside 0..{meta['num_puzzle_identifiers'] - 1}: build it anew")
    return ArraySplit(*arrays.values(), *(meta[key] for key in (
        "vocab_size", "num_puzzle_identifiers", "pad_id", "ignore_label_id", "blank_identifier_id")),
        origin=str(place))  # fmt: skip


def _index(values: np.ndarray, end: int) -> bool:
    return values.ndim == 1 and len(values) > 1 and values[0] == 0 and values[-1] == end and (np.diff(values) > 0).all()


def _json(path: AnyPath) -> dict:
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist: make it with "
            f"`trm data sudoku build --format arrays --output-dir {path.parent.parent}`"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(meta, dict):
        raise InputError(f"{path} holds no JSON object: build the data set anew")
    return meta


def _array(path: AnyPath) -> np.ndarray:
    try:
        with local_copy(path) as copy:
            values = _load(path, copy)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: the folder is not a whole data set, build it anew") from None
    if not isinstance(values, np.ndarray) or not values.ndim:
        raise InputError(f"{path} holds no list of numbers: build it anew")
    if not np.issubdtype(values.dtype, np.integer):
        raise InputError(f"{path} holds {values.dtype}, not whole numbers: build it anew")
    return values


def _load(path: AnyPath, copy: Path) -> np.ndarray:
    try:
        return np.load(copy, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path} is not a whole .npy file: {error}; build it anew") from None


def write_split(folder: str | AnyPath, split: str, data: ArraySplit) -> None:
    """Write one split, every file in one step; `dataset.json` comes last."""
    place = as_path(folder) / split
    for name in _ARRAYS:
        values = getattr(data, name)
        values = values.astype(np.uint8 if name in ("inputs", "labels") and data.vocab_size <= 256 else np.int32)
        with replacement(place / f"all__{name}.npy") as new, new.open("wb") as file:
            np.save(file, values)
    write_json(place / "dataset.json", data.metadata())


def write_json(path: AnyPath, value: object) -> None:
    """Write JSON, in one step."""
    write_whole(path, json.dumps(value).encode())


def keep_groups(split: ArraySplit, groups: np.ndarray) -> ArraySplit:
    """The split with only the groups [M], in that order."""
    puzzles = np.concatenate([np.arange(*split.group_indices[g : g + 2]) for g in groups])
    rows = np.concatenate([np.arange(*split.puzzle_indices[p : p + 2]) for p in puzzles])
    per_group = np.diff(split.group_indices)[groups]
    per_puzzle = np.diff(split.puzzle_indices)[puzzles]
    return dataclasses.replace(
        split,
        inputs=split.inputs[rows],
        labels=split.labels[rows],
        puzzle_identifiers=split.puzzle_identifiers[puzzles],
        puzzle_indices=np.concatenate([[0], np.cumsum(per_puzzle)]).astype(np.int32),
        group_indices=np.concatenate([[0], np.cumsum(per_group)]).astype(np.int32),
    )
