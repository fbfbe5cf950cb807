"""The PyTorch twin of the ARC transformer against its author's numbers, and against the library's step and decoding."""

from __future__ import annotations

import dataclasses
import json

import jax
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks import torch_arc_transformer as twin  # noqa: E402  (torch is optional)
from benchmarks import torch_speed  # noqa: E402
from tests import tiny  # noqa: E402
from tests.evals.test_decode import prompts_of, written  # noqa: E402
from tests.models.test_arc_transformer import batch_of, config  # noqa: E402
from trm_jax.bench import measure, suite  # noqa: E402
from trm_jax.bench.shapes import shape  # noqa: E402
from trm_jax.errors import InputError  # noqa: E402
from trm_jax.evals.decode import Decoder, collate  # noqa: E402
from trm_jax.models import arc_transformer  # noqa: E402
from trm_jax.models.convert.arc_transformer import export_state_dict, import_state_dict  # noqa: E402
from trm_jax.train.state import initial_state  # noqa: E402

TINY = {"model.hidden_size": 24, "model.num_heads": 2, "model.layers": 2, "model.ff_size": 32}


def tensors(batch: dict) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array) for name, array in batch.items()}


def model_of(golden, prefix: str) -> twin.ArcTransformer:
    said = json.loads(str(golden["config"]))
    shape = (said["vocab"], said["n_tasks"], said["d_model"], said["n_heads"], said["n_layers"], said["d_ff"])
    model = twin.ArcTransformer(twin.TwinConfig(*shape, dropout=0.0, attention_dropout=0.0))
    model.load_author({n.removeprefix(prefix): golden[n] for n in golden.files if n.startswith(prefix)})
    return model


@pytest.mark.parametrize("which", ["forward", "forward_head64"])
def test_losses_and_gradients_are_the_authors(golden_folder, which):
    """float32 everywhere: 1e-5 of the largest value, as for the library."""
    golden = np.load(golden_folder / "arc_transformer" / f"{which}.npz")
    model, batch = model_of(golden, "init/"), tensors(batch_of(golden))
    logits = model(batch, twin.causal_mask(batch["segments"]))[0].detach()
    np.testing.assert_allclose(logits, golden["logits"], atol=1e-5 * np.abs(golden["logits"]).max())
    loss = twin.loss_of(model, batch)
    loss.backward()
    np.testing.assert_allclose(loss.item(), golden["loss_output"], rtol=1e-5)
    for name, weight in model.named_parameters():
        if f"grad/{name}" in golden.files:
            wanted = golden[f"grad/{name}"]
            np.testing.assert_allclose(weight.grad, wanted, atol=1e-5 * np.abs(wanted).max(), err_msg=name)
        else:
            np.testing.assert_allclose(weight.grad.norm(), golden[f"grad_norm/{name}"], rtol=1e-5, err_msg=name)


def test_normuon_is_the_authors(golden_folder):
    """Four updates in float32: 1e-5 of the largest weight."""
    golden = np.load(golden_folder / "arc_transformer" / "normuon.npz")
    for case in ("wide", "square", "qkv", "stacked", "zero"):
        first = torch.from_numpy(golden[f"{case}/init"].astype(np.float32))
        weights = first if first.ndim == 3 else first[None]
        momentum, second = torch.zeros_like(weights), torch.zeros(weights.shape[:-1])
        for t in range(1, 5):
            grads = torch.from_numpy(golden[f"{case}/grad{t}"].astype(np.float32)).view_as(weights)
            lr = float(golden["lr"][t - 1])
            moves = twin.normuon(grads, momentum, second)
            weights = weights * (1 - lr * float(golden["weight_decay"])) - lr * moves
            wanted = golden[f"{case}/weights_f32{t}"]
            np.testing.assert_allclose(weights.view_as(first), wanted, atol=1e-5 * np.abs(wanted).max(), err_msg=case)


def test_steps_are_the_librarys():
    """Three steps in float32 without dropout, the first at rate 0: losses to 1e-6, weights to 1e-4 of what they moved.

    AdamW moves a weight by its rate whatever its gradient, so a table's rows with gradients of rounding's size may
    move otherwise: each array is held as a whole.
    """
    changes = {**TINY, "train.steps": 4, "optim.warmup_share": 0.5, "optim.clip": 0.5}
    cfg = shape("arc_transformer_small", changes)
    state = jax.jit(lambda key: initial_state(cfg, key))(jax.random.key(0))
    first = export_state_dict(state.params["weights"])
    trained = twin.Trainer(
        twin.model_of(cfg, state.params, "cpu"), twin.OptimConfig(4, 1e-2, 3e-3, warmup_share=0.5, clip=0.5)
    )
    assert (cfg.optim.lr, cfg.optim.other_lr, cfg.optim.weight_decay) == (1e-2, 3e-3, 0.1)
    step = tiny.train_step(cfg)
    for number in range(3):
        batch = measure.random_batch(cfg, cfg.train.batch_size, number)
        state, sums = step(state, batch)
        loss = trained.step(tensors(batch)).item() / cfg.train.batch_size
        assert loss == pytest.approx(float(sums["loss"]), rel=1e-6) and (number or sums["grad_norm"] > 0.5)
    theirs = {name: array.detach().numpy() for name, array in trained.model.named_parameters()}
    for name, ours in export_state_dict(state.params["weights"]).items():
        apart, moved = (np.linalg.norm(ours - other) for other in (theirs[name], first[name]))
        assert 0 < moved and apart <= 1e-4 * moved, f"{name}: {apart:.3g} of {moved:.3g}"


def test_dropout_drops(golden_folder):
    """In training alone, and attention's weights too."""
    golden = np.load(golden_folder / "arc_transformer" / "forward.npz")
    for name in ("dropout", "attention_dropout"):
        model = model_of(golden, "init/")
        dropping = twin.ArcTransformer(dataclasses.replace(model.config, **{name: 0.5}))
        dropping.load_state_dict(model.state_dict())
        batch = tensors(batch_of(golden))
        assert twin.loss_of(dropping.train(), batch) != twin.loss_of(model, batch)
        assert twin.loss_of(dropping.eval(), batch) == twin.loss_of(model, batch)


def test_it_writes_what_the_author_and_the_library_write(golden_folder):
    """Seven prompts of many lengths in one batch, 200 tokens; behind an end both go on alike, places included."""
    golden = np.load(golden_folder / "arc_transformer" / "decoding.npz")
    model, prompts, count = model_of(golden, "weights/"), prompts_of(golden, range(7)), 200
    size = max(len(prompt["inputs"]) for prompt in prompts)
    tokens = twin.Writer(model, 7, size + count)(tensors(collate(prompts, size)), count).numpy()
    for n, row in enumerate(tokens):
        known = golden[f"prompt{n}/generated"][:count]
        np.testing.assert_array_equal(row[: len(known)], known)
    weights = import_state_dict({n[8:]: golden[n] for n in golden.files if n.startswith("weights/")})
    decoder = Decoder(arc_transformer, config(json.loads(str(golden["config"])), 2048), 7, end=-1)
    for one in written(decoder, {"weights": weights}, prompts, count):
        np.testing.assert_array_equal(one.tokens, tokens[one.prompt])


def test_two_that_do_not_do_the_same_are_not_compared():
    cfg = shape("arc_transformer_small", {**TINY, "eval.batch_size": 2})
    call, _ = measure.Programs(cfg, jax.devices()[:1]).write(2)
    first = call()
    ours = suite.Figure(call, first=first)
    assert suite._twin(cfg, suite.TWIN_WRITE, ours).facts["tokens_alike"] == 1
    with pytest.raises(RuntimeError, match="of the tokens that PyTorch writes first are others"):
        suite._twin(cfg, suite.TWIN_WRITE, suite.Figure(call, first=np.where(first == first[0, 0], 0, first)))
    with pytest.raises(RuntimeError, match="first loss"):
        suite._twin(cfg, suite.TWIN, suite.Figure(call, first=3.3))


def test_what_the_twin_lacks_is_said():
    other = shape("arc_transformer_small", {**TINY, "model.positions": "rope1d"})
    batch = measure.random_batch(other, other.train.batch_size)
    with pytest.raises(NotImplementedError, match="model.positions=rope3d only"):
        torch_speed.torch_side(other, batch, "cpu", False)
    ours = {"data.task": "tests.seams.toy:REVERSAL", "model.family": "tests.seams.toy:mixer"}
    with pytest.raises(InputError, match="has no PyTorch twin"):
        suite.require_twin([shape("demo", ours)])
