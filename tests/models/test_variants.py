"""Variants of TRM held against the reference code: each of six training steps taken from the official state before it.

Files: `golden/variants` of the shared folder; docs/variants.md says what is compared. "Within x" means relative: the
largest difference of an array is at most x times its largest magnitude.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_golden import relative, worst
from trm_jax import sharding
from trm_jax.configs import registry
from trm_jax.configs.defaults import defaults
from trm_jax.configs.resolve import freeze
from trm_jax.errors import InputError
from trm_jax.models import family as families
from trm_jax.models import params as P
from trm_jax.models import trm, urm
from trm_jax.models.convert import torch_format as official
from trm_jax.models.eqr import EqR
from trm_jax.models.row_keys import keys_of
from trm_jax.train.state import initial_state
from trm_jax.train.step import hparams_of, make_train_step

STEPS = 6
NAMES = ("singlez", "hier6", "transformer", "hrm", "urm", "eqr")
TABLE = "model.inner.puzzle_emb.weights"
OTHER_NAMES = {"rms_norm_eps": "rms_eps", "num_layers": "L_layers", "loops": "halt_max_steps", "lambda_": "damping"}


@dataclasses.dataclass(frozen=True)
class Golden:
    """One file: its arrays by name, its settings as ours."""

    name: str
    arrays: dict

    def under(self, prefix: str) -> dict:
        return {n.removeprefix(f"{prefix}/"): a for n, a in self.arrays.items() if n.startswith(f"{prefix}/")}

    def state(self, t: int) -> dict:
        """The official state dict after step t."""
        return self.under({0: "init", STEPS: "final"}.get(t, f"state{t}"))

    def rows(self, prefix: str) -> dict:
        """Data of a batch or a carry under our names."""
        found = self.under(prefix)
        ids = found.pop("puzzle_identifiers", np.zeros(len(found["inputs"]), np.int32))
        return found | {"puzzle_ids": ids}

    @functools.cached_property
    def config(self):
        theirs = json.loads(str(self.arrays["config"]))
        o, family = theirs["optim"], families.get(self.name)
        if self.name == "transformer":
            theirs["L_layers"] = theirs["H_layers"]
        named = {"halt_exploration_prob": 0.0, **{OTHER_NAMES.get(n, n): value for n, value in theirs.items()}}
        model = family.Config(
            num_puzzle_ids=theirs.get("num_puzzle_identifiers", 1),
            dtype="float32",
            **{f.name: named[f.name] for f in dataclasses.fields(family.Config) if f.name in named},
        )
        base = freeze(defaults())
        how = dataclasses.replace(
            base.optim,
            lr=o["lr"],
            warmup_steps=o["warmup_steps"],
            weight_decay=o["weight_decay"],
            table_lr=o.get("puzzle_lr", 0.0),
            table_weight_decay=o.get("puzzle_weight_decay", 0.0),
            ema_decay=o["ema_rate"],
        )
        train = dataclasses.replace(base.train, batch_size=theirs["batch_size"])
        return dataclasses.replace(base, family=family, model=model, optim=how, train=train)

    def params(self, t: int) -> dict:
        cfg = self.config
        return jax.tree.map(jnp.asarray, official.import_state_dict(self.state(t), cfg.model, cfg.family))

    def carry_before(self, t: int):
        """The carry that step t begins with; where the file holds the random starts, those are in it."""
        cfg = self.config
        carry = cfg.family.initial_carry(cfg.model, cfg.train.batch_size)
        if t > 1:
            carry = carry.replace(**self.rows(f"carry{t - 1}"))
        if f"reset{t}/rows" in self.arrays:
            reset = self.under(f"reset{t}")
            new = reset.pop("rows").astype(bool)
            fresh = {**reset, **self.rows(f"batch{t}"), "steps": np.zeros(len(new), np.int32)}
            kept = {name: np.asarray(getattr(carry, name)) for name in fresh}
            at = {name: new.reshape(-1, *[1] * (x.ndim - 1)) for name, x in kept.items()}
            carry = carry.replace(halted=np.zeros_like(new), **{n: np.where(at[n], fresh[n], kept[n]) for n in fresh})
        return jax.tree.map(jnp.asarray, carry)


@pytest.fixture(scope="module")
def load(shared):
    def load(name: str) -> Golden:
        with np.load(shared / "golden" / "variants" / f"{name}.npz") as file:
            return Golden(name, dict(file))

    return functools.cache(load)


@pytest.mark.parametrize("name", NAMES)
def test_every_step_from_the_official_state(load, name):
    """Logits, q, halting, losses, latents, gradients of the first step, weights, table and average after each.

    docs/variants.md has what was measured. The reference's own rounding is up to 3e-6 in logits (hier6), and gradients
    of two float32 implementations differ by up to 3e-5; weights move by 1e-3 a step at most, so 1e-5 of them is 1 % of
    an update: Adam's ratio of the smallest gradients is that of roundings.
    """
    golden = load(name)
    cfg, family = golden.config, golden.config.family
    step = jax.jit(make_train_step(cfg, STEPS))
    say = jax.jit(lambda params, carry, batch: family.step(params, cfg.model, carry, batch, train=True)[1])
    target = jax.jit(lambda params, carry: family.continue_target(params, cfg.model, carry))
    state = jax.jit(functools.partial(initial_state, cfg))(jax.random.key(0))
    state = state.replace(params=golden.params(0), ema=golden.params(0)["weights"])
    furthest = dict.fromkeys(("logits", "q", "losses", "latents", "weights", "table", "gradients"), 0.0)
    for t in range(1, STEPS + 1):
        want, batch = golden.under(f"step{t}"), golden.rows(f"batch{t}")
        params, carry = golden.params(t - 1), golden.carry_before(t)
        out = say(params, carry, batch)
        before = state.replace(params=params, carry=carry)
        state, sums = step(before, batch, hparams_of(cfg, STEPS))
        for flag in ("halted", "steps"):
            np.testing.assert_array_equal(getattr(state.carry, flag), want[flag], f"{flag} of step {t}")
        parts = np.array([sums[n] for n in ("lm_loss", "q_loss", "q_continue_loss") if n in sums])
        found = {"logits": relative(out.logits, want["logits"]), "q": relative(out.q_halt, want["q_halt"])}
        if "q_continue" in want:
            found["q"] = max(found["q"], relative(out.q_continue, want["q_continue"]))
        if "target_q_continue" in want:
            found["q"] = max(found["q"], relative(target(params, state.carry), want["target_q_continue"]))
        found["losses"] = relative(parts, golden.arrays["loss_parts"][t - 1][: len(parts)])
        found["losses"] = max(found["losses"], relative(sums["loss"] * len(out.q_halt), golden.arrays["losses"][t - 1]))
        after = golden.rows(f"carry{t}")
        found["latents"] = max(relative(getattr(state.carry, n), after[n]) for n in family.LATENTS)
        for name_of_data in ("inputs", "labels", "puzzle_ids"):
            np.testing.assert_array_equal(getattr(state.carry, name_of_data), after[name_of_data])
        ours, theirs = official.export_state_dict(state.params, family=family), golden.state(t)
        assert ours.keys() == theirs.keys()
        found["weights"] = max(float(np.abs(ours[n] - theirs[n]).max()) for n in ours if n != TABLE)
        found["table"] = float(np.abs(ours[TABLE] - theirs[TABLE]).max()) if TABLE in ours else 0.0
        if t == 1:
            (adam,) = (s for s in jax.tree.leaves(state.opt_state, is_leaf=_is_adam) if _is_adam(s))
            grads = {"weights": jax.tree.map(lambda m: m / (1 - cfg.optim.beta1), adam.mu)}
            grads = official.export_state_dict(grads, family=family)
            wanted = {n: a for n, a in golden.under("grad1").items() if "puzzle_emb" not in n}
            found["gradients"] = worst(grads, wanted)
        furthest = {n: max(value, found.get(n, 0.0)) for n, value in furthest.items()}
    average = official.export_state_dict({"weights": state.ema}, family=family)
    furthest["average"] = max(float(np.abs(average[n] - a).max()) for n, a in golden.under("ema").items())
    print(f"\n{name}: " + ", ".join(f"{what} {value:.1e}" for what, value in furthest.items()))
    assert furthest["logits"] <= 3e-5 and furthest["q"] <= 3e-5 and furthest["latents"] <= 3e-5
    assert furthest["losses"] <= 1e-5 and furthest["gradients"] <= 1e-4
    assert furthest["weights"] <= 1e-5 and furthest["average"] <= 1e-5 and furthest["table"] <= 1e-7


def _is_adam(state) -> bool:
    return hasattr(state, "mu")


class _Given(EqR):
    """EqR with the noise of a file."""

    def __init__(self, noise):
        self.noise_of_calls = jnp.asarray(noise)

    def draws(self, cfg, keys):
        return lambda call: self.noise_of_calls[call]


def test_noisy_calls_and_their_order(load):
    """One step of EqR from given starts with given noise; 3e-6 measured."""
    golden = load("eqr")
    cfg, want, roll = golden.config.model, golden.under("noisy"), golden.under("roll")
    cfg = dataclasses.replace(cfg, noise_scale=float(want["scale"]))
    inputs = jnp.asarray(np.repeat(roll["inputs"], 4, axis=0))
    weights = golden.params(STEPS)["weights"]
    z_H, z_L, out = jax.jit(
        lambda *args: _Given(want["noise"]).forward(weights, None, cfg, *args, keys=jnp.zeros((12, 2), jnp.uint32))
    )(inputs, roll["z_H0"], roll["z_L0"])
    for ours, name in ((out.logits, "logits"), (z_H, "z_H"), (z_L, "z_L"), (out.q_halt, "q_halt")):
        assert relative(ours, want[name]) <= 3e-5


@pytest.mark.parametrize("name", [n for n in NAMES if n != "eqr"])
def test_evaluation(load, name):
    """Answers and q after each step of a fresh start, from the final weights."""
    golden = load(name)
    cfg, want = golden.config, golden.under("eval")
    batch = golden.rows("eval") if "eval/inputs" in golden.arrays else golden.rows("batch6")
    answers, q_halt = jax.jit(lambda *args: cfg.family.think(args[0], cfg.model, args[1]))(golden.params(STEPS), batch)
    np.testing.assert_array_equal(answers, want["logits"].argmax(-1))
    assert relative(q_halt, want["q_halt"]) <= 1e-4


def shape(name: str, vocab: int, seq: int, **changes):
    family = families.get(name)
    cfg = family.Config(vocab_size=vocab, seq_len=seq, **changes)
    return family, cfg, P.count(family.specs(cfg)["weights"])


ATTENTION = {"mlp_t": False, "pos_encodings": "rope"}
SMALL = {"hidden_size": 16, "num_heads": 2, "dtype": "float32", "L_layers": 1, "H_cycles": 2, "L_cycles": 2}
SMALL_MAZE = ATTENTION | {"hidden_size": 128, "L_layers": 1, "L_cycles": 4}


@pytest.mark.parametrize(
    ("name", "changes", "counts"),
    [
        ("hrm", {}, (27_275_266, 27_270_146, 27_276_290)),
        ("singlez", ATTENTION, (6_828_034, 6_822_914, 6_829_058)),
        ("hier6", ATTENTION, (6_828_034, 6_822_914, 6_829_058)),
        ("singlez", {}, (5_028_866, 18_795_522, 18_801_666)),
        ("hier6", {}, (5_028_866, 18_795_522, 18_801_666)),
        ("transformer", {}, (27_144_194, 27_139_074, 27_145_218)),
        ("urm", {}, (13_662_210, 13_657_090, 13_663_234)),
        ("urm", {"L_layers": 8}, (27_312_130, 27_307_010, 27_313_154)),
        ("eqr", {}, (4_855_298,)),
        ("eqr", SMALL_MAZE, (None, 263_938)),
    ],
)
def test_parameter_counts(name, changes, counts):
    """The published ones, of Sudoku, Maze-Hard and ARC-AGI, without the puzzle table."""
    for count, (vocab, seq) in zip(counts, ((11, 81), (6, 900), (12, 900)), strict=False):
        if count:
            assert shape(name, vocab, seq, **changes)[2] == count


@pytest.mark.parametrize(
    ("family", "counts"),
    [
        ("hrm", (27_275_266, 27_270_146, 27_276_290)),
        ("singlez", (5_028_866, 6_822_914, 6_829_058)),
        ("hier6", (5_028_866, 6_822_914, 6_829_058)),
        ("transformer", (27_144_194, 27_139_074, 27_145_218)),
        ("urm", (13_662_210, 13_657_090, 13_663_234, 13_663_234)),
        ("eqr", (4_855_298, 263_938)),
    ],
)
def test_parameter_counts_of_the_catalogue(family, counts):
    """The same of `sudoku_hrm`, `maze_hrm`, `arc1_hrm`, `arc2_urm` and so on."""
    for task, count in zip(("sudoku", "maze", "arc1", "arc2"), counts, strict=False):
        cfg = freeze(registry.get(f"{task}_{family}"))
        assert P.count(cfg.family.specs(cfg.model)["weights"]) == count


@pytest.mark.parametrize("name", NAMES)
def test_state_dicts_come_back_bit_for_bit(name):
    """Under the official names, with a table that is padded here."""
    sizes = {"hidden_size": 16, "num_heads": 2}
    sizes |= {} if name == "eqr" else {"puzzle_emb_ndim": 16, "num_puzzle_ids": 300}
    family, cfg, _ = shape(name, 7, 16, **sizes)
    params = family.init(jax.random.key(0), cfg)
    theirs = official.export_state_dict(params, ids=cfg.num_puzzle_ids, family=family)
    assert all(n.startswith("model.inner.") for n in theirs)
    back = official.import_state_dict({"model": theirs}, cfg, family)
    jax.tree.map(np.testing.assert_array_equal, back, params)
    other = dataclasses.replace(cfg, hidden_size=32, L_layers=cfg.L_layers + 1)
    assert official.infer_config(theirs, other, family) == cfg


def test_state_dicts_of_another_family_are_refused():
    family, cfg, _ = shape("urm", 7, 16, hidden_size=16, num_heads=2, puzzle_emb_ndim=16)
    theirs = official.export_state_dict(family.init(jax.random.key(0), cfg), family=family)
    with pytest.raises(InputError, match="not an official HRM state dict: no entry H_init"):
        official.unwrap(theirs, family=families.get("hrm"))
    hier6, its_cfg, _ = shape("hier6", 7, 16, hidden_size=16, num_heads=2, puzzle_emb_ndim=16)
    with pytest.raises(InputError, match="missing entry L1_init"):
        official.import_state_dict(trm_state(), its_cfg, hier6)
    with pytest.raises(ValueError, match="L_cycles is 7; there are 6 latents"):
        shape("hier6", 7, 16, L_cycles=7)


def trm_state() -> dict:
    cfg = trm.TRMConfig(7, 16, hidden_size=16, num_heads=2, puzzle_emb_ndim=16)
    return official.export_state_dict(trm.init(jax.random.key(0), cfg))


def test_q_continue_of_trm_is_that_of_hrm():
    """With the switch a row ends where q_halt > q_continue, and the loss gains half of q_continue's."""
    cfg = trm.TRMConfig(7, 16, hidden_size=16, num_heads=2, puzzle_emb_ndim=16, q_continue=True, dtype="float32")
    params = trm.init(jax.random.key(0), cfg)
    params["weights"]["q_head"]["bias"] = jnp.array([1.0, 2.0])
    rows = np.random.default_rng(0).integers(1, 7, (4, 16)).astype(np.int32)
    batch = {"inputs": rows, "labels": rows, "puzzle_ids": np.zeros(4, np.int32)}

    def loss(switch: bool):
        one = dataclasses.replace(cfg, q_continue=switch)
        return jax.jit(lambda p: trm.loss(p, one, trm.initial_carry(one, 4), batch, {}, "softmax"))(params)

    found = {switch: loss(switch) for switch in (False, True)}
    assert found[False][1].halted.all() and not found[True][1].halted.any()
    # Zero weights: q is its bias. The target is sigmoid(max(1, 2)), its cross-entropy the entropy of that.
    p = 1 / (1 + np.exp(-2.0))
    entropy = -4 * (p * np.log(p) + (1 - p) * np.log(1 - p))
    np.testing.assert_allclose(found[True][2]["q_continue_loss"], entropy, rtol=1e-5)
    np.testing.assert_allclose(found[True][0] - found[False][0], 0.5 * entropy, rtol=1e-4)
    assert "q_continue_loss" in trm.finish(jax.device_get(found[True][2]), 0, 4)


def test_eqr_draws_for_each_row_by_itself():
    """In evaluation by the puzzle and the seed, in training by keys of its own: its neighbours change nothing."""
    family, cfg, _ = shape("eqr", 7, 16, **SMALL, halt_max_steps=2)
    params = family.init(jax.random.key(0), cfg)
    rows = np.random.default_rng(0).integers(1, 7, (4, 16)).astype(np.int32)
    think = jax.jit(
        lambda cfg, rows: family.think(
            params, cfg, {"inputs": rows, "labels": rows, "puzzle_ids": jnp.zeros(len(rows), jnp.int32)}
        ),
        static_argnums=0,
    )
    starts = jax.jit(lambda rows, seed: family.starts(params, cfg, keys_of(seed, rows)), static_argnums=1)
    answers, q = think(cfg, rows)
    turned, q_turned = think(cfg, rows[::-1])
    np.testing.assert_array_equal(turned[:, ::-1], answers)
    np.testing.assert_array_equal(starts(rows[::-1], 0)["z_H"][::-1], starts(rows, 0)["z_H"])
    np.testing.assert_array_equal(think(cfg, rows)[0], answers)
    other, _ = think(dataclasses.replace(cfg, eval_seed=1), rows)
    assert (np.asarray(other) != np.asarray(answers)).any()
    z = {name: np.asarray(x) for name, x in starts(rows, 0).items()}
    assert np.abs(z["z_H"]).max() <= 2 / 0.8796 + 1e-3 and not np.allclose(z["z_H"], z["z_L"])
    assert all(not np.allclose(x[0], x[1]) for x in z.values())
    mesh = sharding.make_mesh(devices=jax.devices()[:2])
    shared_out = jax.device_put(rows, sharding.batch_sharding(mesh, sharding.Rules()))
    np.testing.assert_array_equal(starts(shared_out, 0)["z_L"], z["z_L"])
    drawn = np.asarray(starts(np.arange(400 * 16, dtype=np.int32).reshape(400, 16), 0)["z_L"])
    assert abs(drawn.std() - 1) < 0.02 and abs(drawn.mean()) < 0.02  # 102,400 numbers
    noise = family.noise(cfg, jax.random.key(3), 4, 0.1)
    assert len(np.unique(np.asarray(noise["keys"]), axis=0)) == 4
    # Of a batch in parts, as `train.accumulation` computes it, each part is as in the whole: products of other shapes
    # are rounded otherwise.
    loss = jax.jit(lambda *of_rows: family.loss(params, cfg, *of_rows, "stablemax")[1].z_H)
    batch = {"inputs": rows, "labels": rows, "puzzle_ids": np.zeros(4, np.int32)}
    whole = family.initial_carry(cfg, 4), batch, noise
    np.testing.assert_allclose(loss(*jax.tree.map(lambda x: x[1::2], whole)), loss(*whole)[1::2], atol=1e-4)


@pytest.mark.parametrize("name", ["hier6", "hrm", "urm", "eqr"])
def test_how_it_is_computed_changes_nothing(name):
    """Loops or none, activations kept or computed again: gradients agree to 1e-4 of the largest, float32's rounding."""
    sizes = SMALL | ({} if name == "eqr" else {"puzzle_emb_ndim": 16})
    family, cfg, _ = shape(name, 7, 16, **sizes)
    params = family.init(jax.random.key(0), cfg)
    rows = np.random.default_rng(0).integers(1, 7, (4, 16)).astype(np.int32)
    batch = {"inputs": rows, "labels": rows, "puzzle_ids": np.zeros(4, np.int32)}
    noise = family.noise(cfg, jax.random.key(1), 4, 0.0)

    def gradients(cfg):
        def loss(weights):
            carry = family.initial_carry(cfg, 4)
            return family.loss(params | {"weights": weights}, cfg, carry, batch, noise, "stablemax")[0]

        return official.export_state_dict({"weights": jax.jit(jax.grad(loss))(params["weights"])}, family=family)

    kept = gradients(dataclasses.replace(cfg, remat="none", unroll="unroll"))
    again = gradients(dataclasses.replace(cfg, remat="block", unroll="scan"))
    for weight, wanted in kept.items():
        assert np.abs(again[weight] - wanted).max() <= 1e-4 * np.abs(wanted).max() + 1e-12, weight


def test_one_token_back():
    """ConvSwiGLU is the formula, and a token hears of the one before it and of no other."""
    rng = np.random.default_rng(0)
    D, inner, T = 4, 8, 5
    p = {"gate_up": rng.normal(size=(D, 2, inner)), "down": rng.normal(size=(inner, D))}
    p["dwconv"] = {"kernel": rng.normal(size=(2, inner)), "bias": rng.normal(size=inner)}
    p = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), p)
    x = jnp.asarray(rng.normal(size=(2, T, D)), jnp.float32)
    y = np.asarray(urm.conv_swiglu(p, x))
    silu = lambda v: v / (1 + np.exp(-v))  # noqa: E731
    a = silu(np.asarray(x) @ p["gate_up"][:, 0]) * (np.asarray(x) @ p["gate_up"][:, 1])
    for t in range(T):
        before = a[:, t - 1] if t else 0
        mixed = p["dwconv"]["kernel"][0] * before + p["dwconv"]["kernel"][1] * a[:, t] + p["dwconv"]["bias"]
        np.testing.assert_allclose(y[:, t], silu(mixed) @ p["down"], rtol=1e-4, atol=1e-5)
    moved = np.asarray(urm.conv_swiglu(p, x.at[:, 2].add(1.0))) - y
    assert (np.abs(moved).max((0, 2)) > 1e-6).tolist() == [False, False, True, True, False]


def test_a_random_start_is_all_that_it_changes():
    """EqR with damping 1 and no noise, given a start: TRM's supervision step from there.

    0 z + 1 net is net; XLA fuses the two programs otherwise, which moves float32 by 3e-6.
    """
    sizes = {"hidden_size": 16, "num_heads": 2, "puzzle_emb_ndim": 16, "puzzle_emb_len": 1, "dtype": "float32"}
    cfg = trm.TRMConfig(7, 16, num_puzzle_ids=3, **sizes)
    family, other, _ = shape("eqr", 7, 16, num_puzzle_ids=3, damping=1.0, noise_scale=0.0, **sizes)
    params = trm.init(jax.random.key(0), cfg)
    rng = np.random.default_rng(0)
    params["puzzle_emb"] = jnp.asarray(rng.normal(size=params["puzzle_emb"].shape), jnp.float32)
    rows = rng.integers(1, 7, (4, 16)).astype(np.int32)
    batch = {"inputs": rows, "labels": rows, "puzzle_ids": np.arange(4, dtype=np.int32) % 3}
    noise = family.noise(other, jax.random.key(1), 4, 0.5)
    starts = family.starts(params, other, noise["keys"])
    given = trm.initial_carry(cfg, 4).replace(**starts, **batch, halted=jnp.zeros(4, bool))
    wanted = jax.jit(lambda carry: trm.step(params, cfg, carry, batch, noise["min_steps"], train=True))(given)
    step = jax.jit(lambda carry: family.step(params, other, carry, batch, train=True, **noise))
    found = step(family.initial_carry(other, 4))
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=3e-5), found, wanted)
    wanted, _ = wanted
    assert np.abs(starts["z_H"] - np.asarray(wanted.z_H)).max() > 0.1


LATE = {"late_start_prob": 0.4, "late_start_steps": 32}


def small_run(name: str, **changes):
    """(family, its config, parameters, a carry in the middle of its work, a batch): four rows, one of them halted."""
    family, cfg, _ = shape(name, 7, 16, **SMALL, halt_max_steps=4, unroll="scan", **changes)
    params = jax.jit(lambda: family.init(jax.random.key(0), cfg))()
    rng = np.random.default_rng(0)
    first, second = (
        {"inputs": rows, "labels": rows[:, ::-1].copy(), "puzzle_ids": np.zeros(4, np.int32)}
        for rows in rng.integers(1, 7, (2, 4, 16)).astype(np.int32)
    )
    carry = family.initial_carry(cfg, 4).replace(
        **{name: rng.normal(size=(4, cfg.total_len, 16)).astype(np.float32) for name in family.LATENTS},
        **first,
        steps=np.array([3, 1, 2, 3], np.int32),
        halted=np.array([True, False, False, False]),
    )
    return family, cfg, params, jax.tree.map(jnp.asarray, carry), second


def test_a_late_start_is_steps_of_thought_and_then_the_usual_one():
    """By hand: refill, two supervision steps whose latents are kept, then the ordinary loss from there.

    The loss, its gradient and the carry are equal up to float32's rounding, 1e-5 of the largest, so nothing of the
    gradient is of the steps before.
    """
    family, cfg, params, carry, batch = small_run("trm", puzzle_emb_ndim=16, puzzle_emb_len=1)
    late = {"min_steps": np.array([0, 3, 0, 2]), "late_steps": np.full(4, 2)}

    def loss(weights, carry, noise):
        return family.loss(params | {"weights": weights}, cfg, carry, batch, noise, "stablemax")[:2]

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    found = step(params["weights"], carry, late)
    by_hand = trm.refill(params["buffers"], carry, batch)
    rows = jnp.zeros((4, 16))
    for _ in range(2):
        z_H, z_L, _ = trm.forward(params["weights"], rows, cfg, by_hand.inputs, by_hand.z_H, by_hand.z_L)
        by_hand = by_hand.replace(z_H=z_H, z_L=z_L)
    by_hand = by_hand.replace(halted=jnp.zeros(4, bool))
    usual = late | {"late_steps": np.zeros(4, np.int64)}
    wanted = step(params["weights"], by_hand, usual)
    ((_, carry), _), ((_, carry_by_hand), _) = found, wanted
    assert carry.steps.tolist() == [1, 2, 3, 4] and carry.halted.tolist() == carry_by_hand.halted.tolist()
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


@pytest.mark.parametrize("name", ["trm", "eqr"])
def test_the_late_starts_of_a_run(name):
    """One draw for a batch, from {2, 4, 8, 16, 32}, at 0.4 of 500 steps (five deviations are 0.11); a part is as in the
    whole, up to the rounding of products of other shapes."""
    sizes = {} if name == "eqr" else {"puzzle_emb_ndim": 16, "puzzle_emb_len": 1}
    family, cfg, params, carry, batch = small_run(name, **sizes, **LATE)
    keys = jax.vmap(lambda t: jax.random.fold_in(jax.random.key(1), t))(np.arange(500))
    drawn = np.asarray(jax.jit(jax.vmap(lambda key: family.noise(cfg, key, 4)["late_steps"]))(keys))
    assert (drawn == drawn[:, :1]).all() and set(drawn[:, 0]) == {0, 2, 4, 8, 16, 32}
    assert abs((drawn[:, 0] > 0).mean() - 0.4) < 0.11
    without = dataclasses.replace(cfg, late_start_prob=0.0)
    assert "late_steps" not in family.noise(without, keys[0], 4)
    (forward, more), (_, usually) = trm.matmul_flops(cfg), trm.matmul_flops(without)
    assert more - usually == round(0.4 * 12.4 * forward)  # 12.4: the mean of the five
    noise = family.noise(cfg, keys[np.argmax(drawn[:, 0] == 2)], 4)
    step = jax.jit(lambda carry, batch, noise: family.step(params, cfg, carry, batch, train=True, **noise)[0].z_H)
    whole = carry, batch, noise
    part = step(*jax.tree.map(lambda x: x[1::2], whole))
    np.testing.assert_allclose(part, step(*whole)[1::2], atol=1e-4)
    usual = noise | {"late_steps": 0 * noise["late_steps"]}
    assert np.abs(step(carry, batch, usual) - step(*whole)).max() > 1e-2


def test_weights_of_supervision_steps():
    """lambda 0.5, four steps: 1, 1/2, 1/4, 1/8 over their mean 15/32, times each row's whole loss, q_continue's too."""
    family, cfg, params, carry, batch = small_run("trm", puzzle_emb_ndim=16, puzzle_emb_len=1, q_continue=True)
    weighted = dataclasses.replace(cfg, step_weight=0.5)

    @functools.partial(jax.jit, static_argnums=0)
    def loss(cfg, *of_rows):
        return family.loss(params, cfg, *of_rows, {}, "stablemax")[0]

    rows = [jax.tree.map(lambda x: x[i : i + 1], (carry, batch)) for i in range(4)]  # noqa: B023
    alone = np.array([loss(cfg, *row) for row in rows])
    wanted = np.dot(alone, np.array([1, 1 / 2, 1 / 4, 1 / 8]) / (15 / 32))
    np.testing.assert_allclose(loss(weighted, carry, batch), wanted, rtol=1e-5)
    with pytest.raises(InputError, match="step_weight is 0; it must be positive"):
        dataclasses.replace(cfg, step_weight=0)
    with pytest.raises(InputError, match="late_start_steps is 15; it must be at least 16"):
        dataclasses.replace(cfg, late_start_steps=15)
