"""What a frozen language model makes of ARC tasks: read once, kept in a folder, handed out as tables.

A text holds the demonstrations of a task in one view, without the pair that is asked, and that pair's input; never its
output. The states of its tokens are kept one text behind the other in `states.npy` [tokens, E], bfloat16 as uint16; the
last one of each text is its pooled state. `features.json` says of which model, layer, prompt and tasks they are, and
how many texts have been read: killed at any time, the same call goes on from there.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax.errors import InputError
from trm_jax.language import model as language
from trm_jax.models import decoder
from trm_jax.models.layers import round_up
from trm_jax.solvers.hybrid import HybridConfig
from trm_jax.storage.output import owned
from trm_jax.storage.paths import as_path, write_whole
from trm_jax.tasks.arc.source import Augmented
from trm_jax.tasks.dihedral import dihedral

PAIR, ASKED = "Input:\n{}\nOutput:\n{}\n\n", "Input:\n{}\nOutput:\n"
_LENGTHS = 32  # texts are filled up to a multiple of so many tokens: one program for each
_EVERY_S = 5.0  # how often it is noted how many texts have been read
_SAMPLE = 65_536  # tokens from which the states' mean and deviation are taken


def texts(data: Augmented) -> list[tuple[str, str]]:
    """(task, text) of each pair of each puzzle, in their order."""
    found = []
    for number, task in enumerate(data.tasks.values()):
        for puzzle in range(data.puzzles[number], data.puzzles[number + 1]):

            def written(grid: np.ndarray, puzzle=puzzle) -> str:
                seen = data.colors[puzzle][dihedral(grid, int(data.symmetries[puzzle]))]
                return "\n".join("".join(map(str, row)) for row in seen.tolist())

            shown = [PAIR.format(written(pair.input), written(pair.output)) for pair in task.train]
            for place, pair in enumerate(task.pairs):
                others = shown[:place] + shown[place + 1 :]
                found.append((task.id, "".join(others) + ASKED.format(written(pair.input))))
    return found


@dataclass(frozen=True, eq=False)
class Features:
    """The states of N texts."""

    names: list[str]  # [N] the task of each
    sizes: np.ndarray  # [N] int64: tokens of each
    states: np.ndarray  # [sum of sizes, E] uint16, a view of the file

    def tables(self, like: Mapping, order: np.ndarray, share: float = 1.0) -> dict:
        """The parameters "features" and "scaling" of a `trm_jax.models.hybrid`, whose abstract ones are `like`.

        order [N]: the text that stands in each row; share: what the states are multiplied by. Raises InputError for a
        model of another width, or of fewer tokens than a text has.
        """
        width, ends, sizes = self.states.shape[1], np.cumsum(self.sizes), self.sizes[order]
        if like["features"]["pooled"].shape[1] != width:
            raise InputError(f"the language model's states are {width} wide; set model.text_width={width}")
        every = self.states[ends - 1]
        found = {"features": {"pooled": _as(every[order], share)}, "scaling": {"pooled": _scaling(_as(every, share))}}
        if "states" in like["features"]:
            room = like["features"]["states"].shape[1]
            longest = int(self.sizes.argmax())
            if self.sizes[longest] > room:
                said = f"task {self.names[longest]}: its text has {self.sizes[longest]} tokens"
                raise InputError(f"{said}, and model.text_tokens is {room}; set it to as many or more")
            padded = np.zeros((len(order), room, width), np.uint16)
            for row, text in enumerate(order):
                padded[row, : sizes[row]] = self.states[ends[text] - self.sizes[text] : ends[text]]
            sample = self.states[:: max(1, len(self.states) // _SAMPLE)]
            found["features"] |= {"states": _as(padded, share), "sizes": sizes.astype(np.int32)}
            found["scaling"]["states"] = _scaling(_as(sample, share))
        return found


def _as(states: np.ndarray, share: float) -> np.ndarray:
    read = states.view(jnp.bfloat16)
    return read if share == 1 else (read * share).astype(jnp.bfloat16)


def _scaling(states: np.ndarray) -> np.ndarray:
    """Mean and deviation [2, E] float32: nearly all of a state is the same in every text."""
    states = states.astype(np.float32)
    deviation = states.std(0)
    least = float(0.01 * deviation.mean()) or 1.0  # what never varies says nothing
    return np.stack([states.mean(0), np.maximum(deviation, least)])


def read(
    folder: Path, llm: str, layer: int, limit: int, data: Augmented, progress: Callable[[int, int], None] | None
) -> Features:
    """The features of the texts of `data`, from `folder` or by the model, which is given back before this returns.

    layer: 0 the embeddings, -1 or the last the output of the final norm. limit: the most tokens of a text. progress is
    called with the texts read and all there are. Raises InputError where `folder` has features of something else, and
    for a text that is too long.
    """
    asked = texts(data)
    known = {
        "model": language.digest(llm),
        "layer": layer,
        "prompt": _hash([PAIR, ASKED]),
        "tasks": _hash([text for _, text in asked]),
    }

    def check() -> None:
        if (said := _manifest(folder)) and (other := [name for name in known if said["of"][name] != known[name]]):
            mend = "name another folder in data.features, or delete this one"
            raise InputError(f"{folder} holds features of other {other[0]} than is asked for; {mend}")

    check()
    if (_manifest(folder) or {"done": -1})["done"] < len(asked):
        if jax.process_count() > 1:
            raise InputError(
                f"{folder} has no features yet; start the run on one host first, and stop it once it trains"
            )
        with owned(folder, check, "data.features"):
            _make(folder, known, llm, layer, limit, asked, progress or (lambda done, total: None))
    sizes = np.array(_manifest(folder)["sizes"], np.int64)
    _require_short(asked, sizes, limit)
    return Features([name for name, _ in asked], sizes, np.load(folder / "states.npy", mmap_mode="r"))


def folder_of(cfg: HybridConfig) -> Path:
    """Where the features lie. Raises InputError for a bucket."""
    path = as_path(cfg.features).expanduser()
    if not isinstance(path, Path):
        raise InputError(f"data.features={cfg.features} is not on this machine; the states are mapped into memory")
    return path


def same_states(one: HybridConfig, other: HybridConfig) -> bool:
    """Whether the features under two settings are states of one layer of one model, as far as `one`'s folder tells."""
    if (one.llm, one.layer) == (other.llm, other.layer):
        return True
    there = _manifest(folder_of(one))
    return one.layer == other.layer and (not there or there["of"]["model"] == language.digest(other.llm))


def _hash(parts: list[str]) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _manifest(folder: Path) -> dict | None:
    file = folder / "features.json"
    return json.loads(file.read_text()) if file.exists() and (folder / "states.npy").exists() else None


def _require_short(asked: list, sizes: Sequence[int], limit: int) -> None:
    for (name, _), size in zip(asked, sizes, strict=True):
        if size > limit:
            raise InputError(f"task {name}: its text has {size} tokens, more than the {limit} that are allowed")


def _make(folder: Path, known: dict, llm: str, layer: int, limit: int, asked: list, progress: Callable) -> None:
    opened = language.load(llm, say=lambda line: print(line, file=sys.stderr))
    cfg, words = opened.cfg, [opened.words.encode(text) for _, text in asked]
    limit = min(limit, cfg.context or limit)
    sizes, done = [len(ids) for ids in words], (_manifest(folder) or {"done": 0})["done"]
    _require_short(asked, sizes, limit)
    if not -1 <= layer <= cfg.layers:
        raise InputError(f"data.layer is {layer}; {opened.name} has layers up to {cfg.layers}, or -1 for the last")

    def note(done: int) -> None:
        write_whole(folder / "features.json", json.dumps({"of": known, "done": done, "sizes": sizes}).encode())

    shape, file = (sum(sizes), cfg.hidden_size), folder / "states.npy"
    states = np.lib.format.open_memmap(file, "r+" if done else "w+", np.uint16, None if done else shape)
    hidden = 0 <= layer < cfg.layers
    features = jax.jit(partial(decoder.features, cfg=cfg, hidden=hidden))
    ends, noted = np.cumsum(sizes), time.monotonic()
    try:
        for number in range(done, len(words)):
            tokens = np.zeros((1, round_up(sizes[number], _LENGTHS)), np.int32)
            tokens[0, : sizes[number]] = words[number]
            found = features(opened.params, tokens=tokens)
            found = np.asarray((found[1][layer] if hidden else found)[0, : sizes[number]])
            opened.require_numbers(found)
            states[ends[number] - sizes[number] : ends[number]] = found.astype(jnp.bfloat16).view(np.uint16)
            done = number + 1
            if time.monotonic() - noted > _EVERY_S:
                states.flush()
                note(done)
                noted = time.monotonic()
            progress(done, len(words))
    finally:
        states.flush()
        note(done)
