"""Folders of puzzles on disk, CSV or official arrays, whatever the puzzle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from trm_jax.data import hub
from trm_jax.data.arrays import ArraySplit, write_split
from trm_jax.data.text_files import names_csv
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path, write_whole

SPLITS = ("train", "test")
FILE_OF = {"csv": "{}.csv", "arrays": "{}/dataset.json"}  # of a split: the file that stands for it
Puzzles = TypeVar("Puzzles")


def splits_at(
    path: str | AnyPath,
    kind: str,
    read_csv: Callable[[AnyPath], Puzzles],
    read_arrays: Callable[[AnyPath, str], Puzzles],
) -> dict[str, Puzzles]:
    """The splits at a path, a CSV file, a folder of train.csv and test.csv, or arrays, by name."""
    path = as_path(path)
    if names_csv(path):
        return {path.name.split(".csv")[0]: read_csv(path)}
    splits = {}
    for name in SPLITS:
        if (path / FILE_OF["arrays"].format(name)).is_file():
            splits[name] = read_arrays(path, name)
        elif (path / FILE_OF["csv"].format(name)).is_file():
            splits[name] = read_csv(path / FILE_OF["csv"].format(name))
    if not splits:
        mend = f"make them with `trm data {kind} build --output-dir {path}`"
        raise InputError(f"{path} holds neither train.csv or test.csv nor arrays: {mend}")
    return splits


def write_both(
    folder: str | AnyPath,
    form: str,
    train: Puzzles,
    test: Puzzles,
    write_csv: Callable[[AnyPath, Puzzles], None],
    arrays: Callable[[Puzzles, str], ArraySplit],
) -> None:
    """Write both splits as `csv` or `arrays`."""
    folder = as_path(folder)
    for name, puzzles in zip(SPLITS, (train, test), strict=True):
        if form == "csv":
            write_csv(folder / FILE_OF["csv"].format(name), puzzles)
        else:
            write_split(folder, name, arrays(puzzles, name))
    if form == "arrays":
        write_whole(folder / "identifiers.json", b'["<blank>"]')


def csv_of(cfg: Any, split: str, alone: bool = False) -> AnyPath:
    """The CSV file of a split, fetched from the hub or under data.path; `alone`: data.path may name it.

    cfg: settings `data` with source, path, hub_repo, train_file and test_file.
    """
    name = cfg.train_file if split == "train" else cfg.test_file
    if cfg.source == "hub":
        return as_path(hub.download(cfg.hub_repo, name))
    path = folder_of(cfg.source, cfg.path)
    if not names_csv(path):
        return path / name
    if not alone:
        raise InputError(f"data.path={path} names one file: name the folder that holds train.csv and test.csv")
    return path


def folder_of(source: str, path: str) -> AnyPath:
    """data.path, for a source that needs one. Raises InputError where it is not given."""
    if not path:
        form = "a data set in the official format" if source == "arrays" else "with train.csv and test.csv"
        raise InputError(f"data.source={source} needs data.path=FOLDER, {form}")
    return as_path(path).expanduser()  # a shell leaves data.path=~/puzzles as it is
