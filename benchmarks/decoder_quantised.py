"""What quantised weights change of what a language model says: mean NLL of texts, and how often the likeliest token is
that of the plain weights.

    python -m benchmarks.decoder_quantised SmolLM2-135M-Instruct.Q4_1.gguf
    python -m benchmarks.decoder_quantised MODEL.gguf --texts FILE        a JSON list of texts

Float32 arithmetic on the file's numbers; each kind of `trm_jax.models.quant` as `trm lm` loads it. The texts are those
of tests/golden/llm/smollm2.json unless others are given.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax.evals.decode import collate
from trm_jax.models import decoder, quant

TEXTS = Path(__file__).parents[1] / "tests" / "golden" / "llm" / "smollm2.json"


def said(params: dict, cfg: decoder.Config, rows: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """(NLL of each token but the first of the rows, one behind the other; the likeliest token in its place)."""
    batch = collate([{"inputs": np.asarray(ids, np.int32)} for ids in rows], max(map(len, rows)))

    @jax.jit
    def read(params, tokens, segments):
        log_p = jax.nn.log_softmax(decoder.forward(params, cfg, tokens, segments)[:, :-1])
        return -jnp.take_along_axis(log_p, tokens[:, 1:, None], -1)[..., 0], jnp.argmax(log_p, -1)

    counted = batch["segments"][:, :-1] >= 0
    return tuple(np.asarray(x)[counted] for x in read(params, batch["inputs"], batch["segments"]))


def compare(params: dict, cfg: decoder.Config, rows: Sequence[Sequence[int]], group: int | None = None) -> dict:
    """{"plain" or a kind: {"nll", "agreement", "n"}} of plain parameters; group: instead of each kind's own."""
    nll, likeliest = said(params, cfg, rows)
    found = {"plain": {"nll": float(nll.mean()), "agreement": 1.0, "n": len(nll)}}
    for how in quant.KINDS:
        # Layer by layer, as files are loaded: all at once would take four times the memory.
        kernels = {name: params["layers"][name] for name in quant.LINEARS}
        one = jax.jit(lambda w, how=how: quant.quantise(w, how, None if how == "int8" else group))
        leaves = {name: jax.lax.map(one, w) for name, w in kernels.items()}
        nll, other = said({**params, "layers": params["layers"] | leaves}, cfg, rows)
        found[how] = {"nll": float(nll.mean()), "agreement": float((other == likeliest).mean()), "n": len(nll)}
    return found


def main() -> None:
    from trm_jax.cli.plan import print_table
    from trm_jax.language import gguf

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="a GGUF file")
    parser.add_argument("--texts", type=Path, help="a JSON list of texts")
    args = parser.parse_args()
    cfg, params, words = gguf.load(args.path, keep_blocks=False)
    texts = json.loads((args.texts or TEXTS).read_text())
    texts = texts if args.texts else [case["text"] for case in texts["nll"] + texts["items"]]
    found = compare(params, cfg, [words.encode(text) for text in texts])
    rows = [[kind, f"{one['nll']:.3f}", f"{one['agreement']:.1%}", str(one["n"])] for kind, one in found.items()]
    print_table(("", "mean NLL", "same likeliest token", "tokens"), rows)


if __name__ == "__main__":
    main()
