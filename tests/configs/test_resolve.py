"""The edge of the configuration: keys, types, and what is frozen from them."""

import re

import pytest

from trm_jax.configs import registry, resolve
from trm_jax.configs.defaults import defaults
from trm_jax.errors import InputError

PAGE = resolve.flatten(defaults())


@pytest.mark.parametrize(
    "key, text, value",
    [
        ("train.steps", "1e3", 1000),
        ("train.steps", "1000", 1000),
        ("train.steps", " 12 ", 12),
        ("train.steps", "2.0", 2),
        ("mesh.data", "-1", -1),
        ("optim.lr", "3", 3.0),
        ("optim.lr", "3e-4", 3e-4),
        ("optim.lr", ".5", 0.5),
        ("model.mlp_t", "true", True),
        ("model.mlp_t", "False", False),
        ("data.path", "", ""),
        ("data.path", "a=b, c", "a=b, c"),
        ("data.path", "12", "12"),
        ("data.path", "None", "None"),
        ("optim.name", "lion", "lion"),
    ],
)
def test_values_take_the_type_of_their_setting(key, text, value):
    changed = resolve.flatten(resolve.override(defaults(), resolve.parse_assignments([f"{key}={text}"])))
    assert changed[key] == value and type(changed[key]) is type(PAGE[key])
    assert {k: v for k, v in changed.items() if k != key} == {k: v for k, v in PAGE.items() if k != key}


@pytest.mark.parametrize(
    "key, value",
    [
        ("train.steps", "1.5"),
        ("train.steps", "many"),
        ("train.steps", "True"),
        ("train.steps", "1e400"),
        ("train.steps", "-1e400"),
        ("train.steps", "9" * 400),
        ("train.steps", ""),
        ("train.steps", "[1]"),
        ("train.steps", "None"),
        ("train.steps", 1.5),
        ("train.steps", True),
        ("train.steps", None),
        ("optim.lr", "fast"),
        ("optim.lr", "1e-4x"),
        ("optim.lr", "inf"),
        ("optim.lr", "1e400"),
        ("optim.lr", "nan"),
        ("optim.lr", "true"),
        ("optim.lr", "__import__('os')"),
        ("optim.lr", True),
        ("model.mlp_t", "1"),
        ("model.mlp_t", "yes"),
        ("model.mlp_t", ""),
        ("model.mlp_t", 1),
        ("optim.name", 3),
    ],
)
def test_values_of_another_type_are_refused(key, value):
    with pytest.raises(InputError) as caught:
        resolve.override(defaults(), {key: value})
    message = str(caught.value)
    want = type(PAGE[key]).__name__
    assert message.startswith(f"{key}=") and f"is not a {want}; its default is {PAGE[key]!r}" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "key, suggestions",
    [
        ("model.hiden_size", ["model.hidden_size"]),
        ("hidden_size", ["model.hidden_size"]),
        ("batch_size", ["train.batch_size", "eval.batch_size"]),
        ("train.learning_rate", []),
        ("optim.LR", ["optim.lr"]),
        ("model", []),
        ("model.", []),
        ("model.hidden_size.x", ["model.hidden_size"]),
    ],
)
def test_unknown_settings_get_the_nearest(key, suggestions):
    with pytest.raises(InputError, match=f"^unknown setting {re.escape(repr(key))}") as caught:
        resolve.override(defaults(), {key: "1"})
    for suggestion in suggestions:
        assert suggestion in str(caught.value)
    assert "trm show NAME" in str(caught.value)


@pytest.mark.parametrize("text", ["train.steps", "=3", "", "="])
def test_assignments_that_are_none(text):
    with pytest.raises(InputError, match="write it as section.name=value"):
        resolve.parse_assignments([text])


@pytest.mark.parametrize("text", ["name=mine", " name =mine"])
def test_the_name_is_not_set(text):
    with pytest.raises(InputError, match="^--set name: an experiment keeps its name; call its run what you like with"):
        resolve.parse_assignments([text])


def test_the_last_assignment_counts():
    assert resolve.parse_assignments(["a.b=1", "a.c=x=y", "a.b=2"]) == {"a.b": "2", "a.c": "x=y"}


def test_overriding_leaves_the_original_alone_and_stays_locked():
    page = defaults()
    changed = resolve.override(page, {"train.steps": 7})
    assert page.train.steps == 0 and changed.is_locked
    with pytest.raises((AttributeError, KeyError)):
        changed.train.stepz = 3


WRONG = {
    "optim.name": "adma", "optim.lr": -1.0, "optim.beta1": 1.0, "optim.beta2": -0.1, "optim.ema_decay": 1.0,
    "optim.min_lr_ratio": 1.5, "optim.warmup_steps": -1, "optim.weight_decay": -0.1, "optim.table_lr": -1.0,
    "train.loss": "mse", "train.batch_size": 0, "train.steps": -1, "train.epochs": -1,
    "eval.batch_size": 0, "eval.every_steps": -1, "eval.every_epochs": -1, "eval.max_examples": -1,
    "checkpoint.every_steps": 0, "checkpoint.keep_last": 0, "checkpoint.keep_best": -1, "log.every_steps": 0,
    "checkpoint.keep_every_steps": -1,
    "model.dtype": "float8", "model.hidden_size": 0, "model.L_layers": 0, "model.H_cycles": 0, "model.L_cycles": -2,
    "model.halt_max_steps": 0, "model.halt_exploration_prob": 1.5, "model.pos_encodings": "sine",
    "model.attention_impl": "magic", "model.remat": "all", "model.unroll": "all",
    "model.frozen_products": "int4",
    "eval.max_examples_before_end": -1, "log.profile_steps": -1, "model.puzzle_emb_len": -1,
}  # fmt: skip


@pytest.mark.parametrize("key", WRONG)
def test_values_that_cannot_be_run_are_named(key):
    with pytest.raises(InputError, match=re.escape(key.split(".")[1])) as caught:
        resolve.freeze(resolve.override(defaults(), {key: WRONG[key]}))
    assert "\n" not in str(caught.value)


def test_combinations_that_cannot_be_built():
    for changes, words in (
        ({"model.mlp_t": False, "model.num_heads": 7}, "hidden_size 512 is not divisible by num_heads 7"),
        ({"model.puzzle_emb_len": 0}, "does not fit"),
        ({"train.epochs": 0}, "set one: --set train.steps=1000"),
    ):
        with pytest.raises(InputError, match=words):
            resolve.freeze(resolve.override(defaults(), changes))


def test_a_difference_names_what_changed():
    changed = resolve.override(defaults(), {"train.steps": 7, "optim.lr": 1e-4, "name": "x"})
    assert resolve.diff(changed, defaults()) == {"train.steps": (0, 7)}
    assert resolve.diff(defaults(), changed) == {"train.steps": (7, 0)}
    assert resolve.diff(defaults(), defaults()) == {}


def test_freezing_gives_the_model_the_datas_shape():
    for size, vocab, length in ((4, 6, 16), (6, 8, 36), (9, 11, 81)):
        cfg = resolve.freeze(resolve.override(registry.get("demo"), {"data.size": size}))
        assert (cfg.model.vocab_size, cfg.model.seq_len, cfg.data.size) == (vocab, length, size)


@pytest.mark.parametrize("key", ["seed", "data.seed"])
def test_seeds_that_would_repeat_others_are_refused(key):
    resolve.freeze(resolve.override(defaults(), {key: 2**32 - 1}))
    for seed in (-1, 2**32):
        with pytest.raises(InputError, match=f"^{key} is {seed}; a seed is a whole number from 0 to 4294967295$"):
            resolve.freeze(resolve.override(defaults(), {key: seed}))
