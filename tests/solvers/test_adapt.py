"""Training of adapters: PEFT's numbers, the schedule, several tasks side by side, and what stops one of them."""

import dataclasses
import functools
import json
import math
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trm_jax import sharding
from trm_jax.aot import hlo
from trm_jax.language import config, peft, weights
from trm_jax.losses import IGNORE
from trm_jax.models import decoder, quant
from trm_jax.models.lora import Lora
from trm_jax.solvers import adapt

TINY = decoder.Config(
    vocab_size=17, hidden_size=16, layers=2, heads=2, kv_heads=1, head_dim=8, inner_size=32, rope_theta=1e4, tied=True
)
LORA = Lora(4, 8, ("q", "down"))
RECIPE = adapt.Recipe(LORA, lr=0.03)


@pytest.fixture(scope="module")
def base():
    """Weights so large that an adapter has something to work on."""
    made = jax.device_get(jax.jit(decoder.init, static_argnums=1)(jax.random.key(1), TINY))
    return jax.tree.map(lambda x: jax.device_put(5 * x if x.ndim > 1 else x), made)


@pytest.fixture(scope="module")
def trainer():
    return adapt.Trainer(RECIPE, TINY)


def course_of(seed: int, count: int = 4, recipe=RECIPE) -> adapt.Course:
    """One text over and over, cut at different lengths."""
    rng = np.random.default_rng(seed)
    text = np.tile(rng.integers(0, TINY.vocab_size, 4), 8).astype(np.int32)
    lessons = [(text[:size], np.arange(size) >= 3) for size in rng.integers(5, 30, count)]
    return adapt.course(lessons, recipe, rng)


def bits(tree) -> list[bytes]:
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(tree)]


def assert_close(one, other, atol=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol), one, other)


def test_a_whole_course_is_pefts(shared, golden):
    """Free running: its masks, padding, mean, clipping, warm-up and cosine. To 2e-5: Adam turns rounding of a gradient
    near 0 into up to a part of lr."""
    said, folder = golden("peft_updates"), shared / "golden" / "llm"
    cfg = config.read(folder / "llama31_gqa", dtype="float32")
    params = weights.load(folder / "llama31_gqa", cfg)
    adapter, kind = peft.read(folder / "lora_llama_plain", cfg, params)
    assert (said["betas"], said["eps"]) == ([0.9, 0.999], 1e-8)
    recipe = adapt.Recipe(kind, **{name: said[name] for name in ("lr", "weight_decay", "warmup", "clip")})
    lessons = [(np.array(one["ids"], np.int32), np.array(one["learned"], bool)) for one in said["lessons"]]
    course = adapt.Course(lessons, np.array(said["order"]))
    (found,) = adapt.train(adapt.Trainer(recipe, cfg), params, {"lora": adapter}, [course])
    np.testing.assert_allclose(found.losses, said["losses"], rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora_llama_plain", "lora_qwen3_plain", "lora_llama_rs_all", "lora_qwen3_rs_embed"])
def test_three_updates_are_pefts(shared, name):
    """Free running, from PEFT's start, within the tolerances of the golden README: Adam
    turns rounding of a gradient near 0 into up to a part of lr."""
    folder = shared / "golden" / "llm" / name
    how = json.loads((folder / "train.json").read_text())
    model = folder.parent / how["base"]
    cfg = config.read(model, dtype="float32")
    params = weights.load(model, cfg)
    adapter, kind = peft.read(folder, cfg, params)
    with np.load(folder / "golden.npz") as file:
        golden = dict(file)
    with np.load(model / "golden.npz") as file:
        ids, segments = file["input_ids"], file["attention_mask"] - 1
    labels = np.pad(golden["labels"][:, 1:], ((0, 0), (0, 1)), constant_values=IGNORE)
    batch = {
        name: x[None].astype(np.int32) for name, x in {"inputs": ids, "labels": labels, "segments": segments}.items()
    }
    trainer = adapt.Trainer(adapt.Recipe(kind, lr=how["lr"], weight_decay=how["weight_decay"]), cfg)
    state = trainer.start({"lora": adapter}, 1)
    for wanted in how["losses"]:
        state, losses = trainer.update(params, state, batch, np.full(1, how["lr"], np.float32))
        assert losses[0] == pytest.approx(wanted, abs=1e-5)
    trained = jax.tree.map(lambda x: x[0], state["trained"])
    logits = decoder.forward(adapt.adapted(params, trained, trainer.recipe), cfg, ids, segments)
    real = segments >= 0
    np.testing.assert_allclose(logits[real], golden["logits_after"][real], rtol=0, atol=1e-4)


def test_rates_rise_from_nothing_and_fall_along_half_a_cosine():
    rates = RECIPE.rates(250)
    np.testing.assert_allclose(rates[:25], 0.03 * np.arange(25) / 25, rtol=1e-6)
    np.testing.assert_allclose(rates[25:], 0.03 * (1 + np.cos(np.pi * np.arange(225) / 225)) / 2, rtol=0, atol=1e-8)
    assert dataclasses.replace(RECIPE, warmup=13).rates(128)[13] == np.float32(0.03)
    assert RECIPE.rates(3)[0] == np.float32(0.03)  # less than ten updates have no warm-up
    assert len(RECIPE.rates(0)) == 0


@pytest.mark.parametrize("count, updates", [(4, 4), (5, 5), (1, 1), (250, 250)])
def test_a_course_has_every_lesson_in_every_epoch_until_no_batch_is_full(count, updates):
    order = course_of(0, count).order
    assert order.shape == (updates, 2)
    told = order.ravel()
    assert sorted(told[:count]) == list(range(count))
    assert len(set(told[count:])) == len(told) - count
    three = course_of(0, count, dataclasses.replace(RECIPE, batch=3)).order
    assert len(three) == 2 * count // 3


def test_sizes_are_few_and_waste_less_than_half():
    sizes = {adapt.bucket(length) for length in range(1, 8193)}
    assert len(sizes) == 13 and max(sizes) == 8192
    assert all(length <= adapt.bucket(length) <= max(128, 1.5 * length) for length in range(1, 8193))


def test_the_loss_is_the_mean_over_all_learned_tokens(base, monkeypatch):
    lessons = [course_of(seed).lessons[0] for seed in (1, 2)]
    batch = {name: x[0] for name, x in adapt.batch_of([lessons], 2).items()}
    forward = jax.jit(decoder.forward, static_argnums=1)
    logits = np.asarray(forward(base, TINY, batch["inputs"], batch["segments"]), np.float64)
    each = []
    for row, (ids, learned) in enumerate(lessons):
        said = logits[row, : len(ids) - 1]
        right = said[np.arange(len(ids) - 1), ids[1:]]
        each += (np.log(np.exp(said).sum(-1)) - right)[learned[1:]].tolist()
    wanted = pytest.approx(np.mean(each), abs=1e-6)
    value, plain = jax.jit(jax.value_and_grad(adapt.loss), static_argnums=1)(base, TINY, batch)
    assert value == wanted
    monkeypatch.setattr(adapt, "HEAD_TOKENS", 100)  # of 256, so that the last part is not whole
    again = dataclasses.replace(TINY, remat=True)
    value, kept = jax.jit(jax.value_and_grad(adapt.loss), static_argnums=1)(base, again, batch)
    assert value == wanted
    assert_close(plain, kept)


@pytest.mark.parametrize("quantise", ["int8", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_training_lowers_the_loss_and_leaves_the_base_alone(base, trainer, quantise):
    if quantise == "int8":
        layers = {name: quant.quantise(w, "int8") if name in quant.LINEARS else w for name, w in base["layers"].items()}
        cfg, params = TINY, {**base, "layers": layers}
    else:
        cfg = dataclasses.replace(TINY, dtype="bfloat16")
        params, trainer = jax.tree.map(lambda x: x.astype(jnp.bfloat16), base), adapt.Trainer(RECIPE, cfg)
    before = bits(params)
    start = adapt.begin(RECIPE, cfg, params)
    for one in adapt.train(trainer, params, start, [course_of(1, 20)]):
        assert one.finite and len(one.losses) == one.updates == 20
        assert np.mean(one.losses[-5:]) < 0.8 * np.mean(one.losses[:5])
        assert {x.dtype for x in jax.tree.leaves(one.weights)} == {jnp.dtype(cfg.dtype)}
    assert bits(params) == before


def test_tasks_side_by_side_are_tasks_one_by_one(base, trainer):
    """In sums of other orders: to 1e-5 after 6 updates of a rate up to 0.03."""
    start = adapt.begin(RECIPE, TINY, base)
    courses = [course_of(seed, count) for seed, count in ((1, 6), (2, 3))]
    together = adapt.train(trainer, base, start, courses)
    for one, course in zip(together, courses, strict=True):
        (alone,) = adapt.train(trainer, base, start, [course])
        np.testing.assert_allclose(one.losses, alone.losses, atol=1e-5)
        assert_close(one.weights, alone.weights)
        (padded,) = adapt.train(trainer, base, start, [course], tasks=2)
        assert_close(one.weights, padded.weights)
    for one, other in zip(together[::-1], adapt.train(trainer, base, start, courses[::-1]), strict=True):
        assert_close(one.weights, other.weights)


def test_a_task_without_numbers_stops_alone(base, trainer):
    start = adapt.begin(RECIPE, TINY, base)
    good, bad = course_of(1), course_of(2)
    (alone,) = adapt.train(trainer, base, start, [good])
    state = trainer.start(start, 2)
    poison = jax.tree.map(lambda x: x.at[1].set(jnp.nan), state["trained"]["lora"]["q"])
    poisoned = {**state, "trained": {"lora": {**state["trained"]["lora"], "q": poison}}}
    before = bits(jax.tree.map(lambda x: x[1], poisoned["trained"]))
    for at in range(4):
        batch = adapt.batch_of([[one.lessons[place] for place in one.order[at]] for one in (good, bad)], 2)
        poisoned, losses = trainer.update(base, poisoned, batch, np.full(2, RECIPE.rates(4)[at], np.float32))
        assert np.isfinite(losses[0]) and np.isnan(losses[1])
    assert poisoned["finite"].tolist() == [True, False]
    assert bits(jax.tree.map(lambda x: x[1], poisoned["trained"])) == before
    assert_close(jax.tree.map(lambda x: x[0], poisoned["trained"]), alone.weights)
    stopped = {**trainer.start(start, 2), "finite": jnp.array([True, False])}  # as by a gradient
    _, losses = trainer.update(base, stopped, batch, np.zeros(2, np.float32))
    assert np.isfinite(losses[0]) and np.isnan(losses[1])


def test_training_ends_where_no_task_has_numbers(base, trainer):
    start = jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), adapt.begin(RECIPE, TINY, base))
    (one,) = adapt.train(trainer, base, start, [course_of(1)])
    assert one.fault() == "loss or gradient of update 0 was no number"
    assert one.told() == {"updates": f"2/{one.updates}"} and one.updates > 2


@pytest.mark.slow  # NVARC's tests train so too
def test_embedding_and_head_are_trained_whole_and_apart(base):
    recipe = dataclasses.replace(RECIPE, whole=True, clip=1.0, batch=1, epochs=1, warmup=1)
    trainer = adapt.Trainer(recipe, TINY)
    start = adapt.begin(recipe, TINY, base)
    (one,) = adapt.train(trainer, base, start, [course_of(4, 8, recipe)])
    assert not np.array_equal(one.weights["embed"], one.weights["head"].T)
    logits = decoder.forward(adapt.adapted(base, start, recipe), trainer.cfg, jnp.arange(5)[None])
    # To rounding: a tied head may be multiplied the other way round.
    np.testing.assert_allclose(logits, decoder.forward(base, TINY, jnp.arange(5)[None]), atol=1e-5)
    after = decoder.forward(adapt.adapted(base, one.weights, recipe), trainer.cfg, jnp.arange(5)[None])
    assert np.abs(after - logits).max() > 1e-3


def test_training_ends_when_it_is_told_to(base, trainer):
    told = []

    def go_on(made, losses):
        told.append((made, losses))
        return made < 3

    (one,) = adapt.train(trainer, base, adapt.begin(RECIPE, TINY, base), [course_of(1, 10)], go_on)
    assert [made for made, _ in told] == [1, 2, 3] and len(one.losses) == 4 and one.updates == 10
    assert [losses[0] for _, losses in told] == one.losses[:3]


@pytest.mark.parametrize("sizes", [{"data": 4}, pytest.param({"data": 2, "tensor": 2}, marks=pytest.mark.slow)])
def test_tasks_over_devices_are_tasks_of_one(base, trainer, sizes):
    """Five tasks on four devices: to 1e-5 as tasks side by side are, for another program rounds its sums otherwise.
    Devices that have all weights tell each other nothing, and each answers what it has trained."""
    mesh = sharding.make_mesh(**sizes, devices=jax.devices()[:4])
    spread = adapt.Trainer(RECIPE, TINY, mesh)
    there = jax.device_put(base, sharding.shardings(mesh, sharding.Rules(), decoder.specs(TINY)))
    start = adapt.begin(RECIPE, TINY, base)
    courses = [course_of(seed, count) for seed, count in ((1, 6), (2, 3), (3, 4), (4, 2), (5, 5))]
    found = adapt.train(spread, there, start, courses)
    assert {len(jax.tree.leaves(one.state)[0]) for one in found} == {8 if sizes["data"] == 4 else 6}
    for one, alone in zip(found, adapt.train(trainer, base, start, courses), strict=True):
        np.testing.assert_allclose(one.losses, alone.losses, rtol=0, atol=1e-5)
        assert_close(jax.device_get(one.weights), jax.device_get(alone.weights))
    if sizes["data"] == 4:
        batch = jax.device_put(adapt.batch_of([[]] * 8, 2), spread.batch_lies)
        text = spread.program.lower(there, spread.start(start, 8), batch, np.zeros(8, np.float32)).compile().as_text()
        assert not hlo.collectives(hlo.parse(text))
    threads = set()

    def answer(number: int) -> tuple[int, set]:
        threads.add(threading.current_thread().name)
        own = sharding.of_group(there, mesh, spread.groups[found[number].group])
        params = adapt.adapted(own, found[number].weights, RECIPE)
        return number, decoder.head(params, TINY, jnp.ones((1, 1, 16))).devices()

    told = dict(adapt.answers(found, [0, 1, 3, 4], answer))
    assert told == {number: {*mesh.devices[found[number].group].flat} for number in (0, 1, 3, 4)}
    assert len(threads) == (1 if "tensor" in sizes else len({found[number].group for number in told}))


def test_an_answer_that_fails_takes_no_other_along():
    """Those that devices are at are waited for and told; those that nobody has begun are left."""
    mesh = sharding.make_mesh(2, devices=jax.devices()[:2])
    trainer, fails = adapt.Trainer(RECIPE, TINY, mesh), threading.Event()
    found = [adapt.Trained({"of each": np.zeros(4)}, number, trainer) for number in range(4)]

    def answer(number: int) -> int:
        if number == 0:
            fails.set()
            raise ZeroDivisionError
        assert fails.wait(60)
        time.sleep(0.5)
        return number

    told = []
    with pytest.raises(ZeroDivisionError):
        for number in adapt.answers(found, range(4), answer):
            told.append(number)
    assert 2 in told and 3 not in told


@functools.cache
def learned_in(of: str, parts: int = 1, **sizes: int):
    """Losses and weights of three updates of eight lessons, one of which has nothing to learn."""
    recipe = adapt.Recipe(LORA if of == "adapter" else None, lr=0.01, batch=8, clip=0.5)
    lessons = [one for seed in range(3) for one in course_of(seed, 8).lessons]
    lessons[3] = lessons[3][0], np.zeros_like(lessons[3][1])
    mesh = sharding.make_mesh(**{"data": 1, **sizes}, devices=jax.devices()[: math.prod(sizes.values())])
    places = sharding.shardings(mesh, sharding.Rules(), decoder.specs(TINY))
    there = jax.jit(decoder.init, static_argnums=1, out_shardings=places)(jax.random.key(1), TINY)
    trainer, losses = adapt.Trainer(recipe, TINY, mesh, "lessons", parts), []
    state = trainer.start(adapt.begin(recipe, TINY, there), 1)
    for at in range(3):
        batch = adapt.batch_of([lessons[8 * at : 8 * at + 8]], 8)
        state, loss = trainer.update(there if recipe.lora else {}, state, batch, np.full(1, 0.01, np.float32))
        losses.append(float(loss[0]))
    return losses, jax.device_get(state["trained"])


@pytest.mark.parametrize(
    ("of", "parts", "sizes"),
    [
        ("adapter", 2, {}),
        pytest.param("adapter", 1, {"data": 4}, marks=pytest.mark.slow),
        ("adapter", 2, {"data": 2, "tensor": 2}),
        pytest.param("all weights", 2, {"fsdp": 4}, marks=pytest.mark.slow),
    ],
)
def test_lessons_over_devices_and_in_parts_are_those_of_one(of, parts, sizes):
    """To a hundredth of the rate: Adam turns rounding of a gradient near 0 into up to a part of it."""
    one, other = learned_in(of), learned_in(of, parts, **sizes)
    assert_close(one, other, 1e-4)
    assert one[0][2] < one[0][0]
