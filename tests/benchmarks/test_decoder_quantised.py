"""How far quantised weights are from plain ones, on a tiny model."""

import numpy as np
import pytest

from benchmarks import decoder_quantised
from trm_jax.language import gguf


@pytest.mark.slow
def test_finer_grids_agree_more(golden_folder):
    """Random weights, whose logits lie close together: 8 bits change few likeliest tokens, 4 bits more, a minimum in
    each group fewer; and the plain NLL is that of the golden logits."""
    pytest.importorskip("gguf"), pytest.importorskip("tokenizers")
    path = golden_folder / "llm" / "gguf" / "llama_mixed.gguf"
    cfg, params, _ = gguf.load(path, keep_blocks=False)
    golden = np.load(path.with_suffix(".npz"))
    real = golden["attention_mask"].astype(bool)
    rows = [ids[mask] for ids, mask in zip(golden["input_ids"], real, strict=True)]
    logits = golden["logits"].astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    nll = [-log_p[i, np.flatnonzero(mask)[:-1], rows[i][1:]] for i, mask in enumerate(real)]
    many = [np.random.default_rng(seed).integers(3, cfg.vocab_size, 40) for seed in range(8)]
    assert decoder_quantised.said(params, cfg, rows)[0].mean() == pytest.approx(np.concatenate(nll).mean(), abs=1e-5)
    found = decoder_quantised.compare(params, cfg, many, group=32)
    shares = {kind: one["agreement"] for kind, one in found.items()}
    assert found["plain"]["n"] == 8 * 39
    assert shares["int8"] > 0.95 and shares["int8"] > shares["int4-min"] > shares["int4"] > 0.5
    for kind, most in (("int8", 0.02), ("int4-min", 0.15), ("int4", 0.3)):
        assert abs(found[kind]["nll"] - found["plain"]["nll"]) < most
