"""Opening a language model: a Hugging Face folder or a GGUF file, ready to read and write."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trm_jax.errors import InputError
from trm_jax.language import config, gguf, peft, weights
from trm_jax.language import tokenizer as tokenizers
from trm_jax.language.packaged import located
from trm_jax.language.tokenizer import Tokenizer
from trm_jax.models import decoder, quant

_ENDS = ("eos_token", "eot_token")  # as the files of a model without a list of numbers name them
_SAMPLES, _SAMPLE = 64, 16_384  # pieces of a file that its digest is of, and their bytes


@dataclass(frozen=True, eq=False)
class Model:
    """One model in memory, which is given back with the last reference to it."""

    name: str  # the folder's or file's
    cfg: decoder.Config
    params: dict  # with "lora" where there is an adapter
    words: Tokenizer
    eos: tuple[int, ...]  # any of them ends a text
    digest: str

    def require_numbers(self, computed: np.ndarray) -> None:
        if not np.isfinite(computed).all():
            raise InputError(f"{self.name} computes what is no number; take --dtype float32, or fetch its files again")


def load(
    path: str | Path,
    *,
    dtype: str | None = None,
    quantise: str | None = None,
    rope_theta: float | None = None,
    tokenizer: str | Path | None = None,
    adapter: str | Path | None = None,
    place: Callable[[dict], dict] | None = None,
    say: Callable[[str], None] = print,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Model:
    """The model at `path`: a folder with config.json, a .gguf file or a name of `packaged`.

    dtype: of weights and products; by default the folder's, and float32 of a GGUF file. quantise: of
    `trm_jax.models.quant.KINDS`. rope_theta: for files that do not tell it. tokenizer: a folder whose tokenizer.json
    is taken instead of the model's own. adapter: a folder of PEFT. place: where it lies, as of `weights.load`; the
    first device by default. say: told what is worth a note. progress is called with what has been read and all there
    is. Raises InputError for what is missing, broken or not supported.
    """
    path, asked = located(path), digest(path, dtype, quantise, rope_theta, tokenizer, adapter)
    words = tokenizers.load(tokenizer, say) if tokenizer else None
    if path.is_dir():
        words = words or tokenizers.load(path, say)
        cfg = config.read(path, rope_theta=rope_theta, dtype=dtype)
        eos = config.ids(path).eos
        if words.size > cfg.vocab_size:
            raise InputError(f"{path}: the tokenizer has {words.size} tokens, and the model {cfg.vocab_size}")
        params = weights.load(path, cfg, place, quantise=quantise, progress=progress)
    else:
        how = {"dtype": dtype or "float32", "rope_theta": rope_theta, "tokenizer": words}
        cfg, params, words = gguf.load(path, **how, place=place, say=say, progress=progress)
        if quantise:
            lies = place(quant.specs(decoder.specs(cfg), quantise))["layers"] if place else {}
            kernels = {n: weights.quantised(params["layers"][n], quantise, lies.get(n)) for n in quant.LINEARS}
            params = {**params, "layers": params["layers"] | kernels}
        eos = ()
    named = tuple(number for number in map(words.id, _ENDS) if number is not None)
    if adapter:
        tree, lora = peft.read(Path(adapter), cfg, params)
        params = {**params, "lora": (tree, lora.scale)}
    return Model(path.absolute().name, cfg, params, words, tuple(dict.fromkeys(eos or named)), asked)


def digest(
    path: str | Path,
    dtype: str | None = None,
    quantise: str | None = None,
    rope_theta: float | None = None,
    tokenizer: str | Path | None = None,
    adapter: str | Path | None = None,
) -> str:
    """What tells a model that is loaded this way from others: 16 hexadecimal digits.

    Of names and sizes of its files and of pieces of what they hold, evenly spaced, so that large ones are not read.
    Raises InputError where there is no such file or folder.
    """
    known = hashlib.sha256(repr((dtype, quantise, rope_theta)).encode())
    for what, place in (("model", located(path)), ("tokenizer", tokenizer), ("adapter", adapter)):
        if place is not None:
            known.update(what.encode() + _sampled(Path(place)))
    return known.hexdigest()[:16]


def _sampled(place: Path) -> bytes:
    if not place.exists():
        raise InputError(f"{place} does not exist; name a folder in Hugging Face's format or a .gguf file")
    known = hashlib.sha256()
    files = sorted(place.glob("*.json")) + sorted(place.glob("*.jinja")) + sorted(place.glob("*.safetensors"))
    for file in files if place.is_dir() else [place]:
        size = file.stat().st_size
        known.update(f"{file.name if place.is_dir() else ''} {size} ".encode())
        with file.open("rb") as content:
            for start in range(0, size, max(_SAMPLE, size // _SAMPLES)):
                content.seek(start)
                known.update(content.read(_SAMPLE))
    return known.digest()
