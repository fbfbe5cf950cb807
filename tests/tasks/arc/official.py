"""ARC sets as the official builder lays them out, by loops that share nothing with the package but the encoding."""

import json

import numpy as np

from trm_jax.tasks.arc import grids
from trm_jax.tasks.dihedral import dihedral


def write_arrays(folder, tasks: dict, names: dict, tested: list[str], seed: int = 0, identifiers=None) -> None:
    """tasks: {name: {"train": [{"input", "output"}], "test": ...}}; names: {name: the names of its puzzles}.

    identifiers: all names in the order of their ids, from 0; by default in that of the puzzles.
    """
    draw = np.random.default_rng(seed)
    every = [one for name in tasks for one in names[name]]
    identifiers = identifiers or ["<blank>", *every]
    kinds = ("inputs", "labels", "ids", "puzzles", "groups")
    found = {split: {key: [] for key in kinds} for split in ("train", "test")}
    for name, task in tasks.items():
        sides = {"train": task["train"] + ([] if name in tested else task["test"])}
        sides |= {"test": task["test"]} if name in tested else {}
        for split, pairs in sides.items():
            out = found[split]
            for puzzle in names[name]:
                _, *how = puzzle.split("|||")
                symmetry, colors = (int(how[0][1:]), np.array([int(c) for c in how[1]])) if how else (0, np.arange(10))
                still = draw.integers(len(pairs))
                for number, pair in enumerate(pairs):
                    both = [dihedral(colors[np.array(pair[side])], symmetry) for side in ("input", "output")]
                    room = 30 - np.max([grid.shape for grid in both], 0)
                    at = [0, 0] if split == "test" or number == still else draw.integers(0, room + 1).tolist()
                    for key, grid in zip(("inputs", "labels"), both, strict=True):
                        out[key].append(grids.encode(grid.astype(np.uint8), *at))
                out["ids"].append(identifiers.index(puzzle))
                out["puzzles"].append(len(out["inputs"]))
            out["groups"].append(len(out["ids"]))
    for split, out in found.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        arrays = {
            "inputs": np.array(out["inputs"], np.uint8),
            "labels": np.array(out["labels"], np.uint8),
            "puzzle_identifiers": np.array(out["ids"], np.int32),
            "puzzle_indices": np.array([0, *out["puzzles"]], np.int32),
            "group_indices": np.array([0, *out["groups"]], np.int32),
        }
        for key, values in arrays.items():
            np.save(folder / split / f"all__{key}.npy", values)
        meta = {
            "seq_len": 900,
            "vocab_size": 12,
            "pad_id": 0,
            "ignore_label_id": 0,
            "blank_identifier_id": 0,
            "num_puzzle_identifiers": len(identifiers),
            "total_groups": len(out["groups"]),
            "mean_puzzle_examples": len(out["inputs"]) / len(out["ids"]),
            "total_puzzles": len(out["ids"]),
            "sets": ["all"],
        }
        (folder / split / "dataset.json").write_text(json.dumps(meta))
    (folder / "identifiers.json").write_text(json.dumps(identifiers))
    (folder / "test_puzzles.json").write_text(json.dumps({name: tasks[name] for name in tested}))
