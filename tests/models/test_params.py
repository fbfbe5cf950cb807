"""Parameter declarations: counts of the published models, initial values, logical axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trm_jax.models import TRMConfig, params, trm


def sudoku(**changes) -> TRMConfig:
    return TRMConfig(**{"vocab_size": 11, "seq_len": 81, "mlp_t": True, "pos_encodings": "none", **changes})


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"hidden_size": 256, "puzzle_emb_ndim": 256}, 1_483_778),
        ({"hidden_size": 384, "puzzle_emb_ndim": 384}, 2_666_498),
        ({"hidden_size": 512}, 5_028_866),
        ({"hidden_size": 768}, 9_753_602),
        ({"hidden_size": 1024}, 17_624_066),
        ({"hidden_size": 1536}, 38_083_586),
        ({"mlp_t": False, "pos_encodings": "rope"}, 6_828_034),
        ({"L_layers": 1}, 2_520_578),
        ({"L_layers": 3}, 7_537_154),
        ({"L_layers": 4}, 10_045_442),
        ({"L_layers": 6}, 15_062_018),
    ],
)
def test_counts_of_the_published_models(changes, count):
    assert params.count(trm.specs(sudoku(**changes))["weights"]) == count


@pytest.fixture(scope="module")
def small():
    cfg = sudoku(hidden_size=64, seq_len=9, puzzle_emb_ndim=64, puzzle_emb_len=1, dtype="bfloat16")
    return cfg, jax.jit(trm.init, static_argnums=1)(jax.random.key(0), cfg)


def test_initial_values(small):
    """Linears have deviation 1/sqrt(fan_in), truncated at two of the underlying normal's; the rest is fixed."""
    cfg, values = small
    weights = values["weights"]
    declared = params.abstract(trm.specs(cfg))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), values) == jax.tree.map(lambda x: (x.shape, x.dtype), declared)
    linears = [weights["lm_head"]]
    linears += [m[w] for layer in weights["layers"].values() for m in layer.values() for w in ("gate_up", "down")]
    for w in linears:
        fan_in, size = w.shape[0], w.size
        std = fan_in**-0.5
        assert np.std(w) == pytest.approx(std, rel=5 / size**0.5)  # five deviations of the estimate
        assert abs(np.mean(w)) < 5 * std / size**0.5
        assert np.abs(w).max() <= 2 * std / 0.8796 + 1e-6
    assert np.std(weights["embed_tokens"]) == pytest.approx(cfg.hidden_size**-0.5, rel=0.15)
    np.testing.assert_array_equal(weights["q_head"]["kernel"], 0)
    np.testing.assert_array_equal(weights["q_head"]["bias"], -5)
    np.testing.assert_array_equal(values["puzzle_emb"], 0)
    assert values["buffers"]["H_init"].dtype == jnp.bfloat16
    assert not np.array_equal(values["buffers"]["H_init"], values["buffers"]["L_init"])


def test_adding_a_parameter_changes_no_other_initial_value():
    """Each key is folded from the parameter's own path; equal shapes still get different values."""

    def spec():
        return params.ParamSpec((3, 2), (None, None), params.truncated_normal(1.0))

    few = params.init({"a": spec(), "c": {"d": spec()}}, jax.random.key(0))
    more = params.init({"a": spec(), "b": spec(), "c": {"d": spec(), "e": spec()}}, jax.random.key(0))
    np.testing.assert_array_equal(few["a"], more["a"])
    np.testing.assert_array_equal(few["c"]["d"], more["c"]["d"])
    leaves = [np.asarray(x) for x in jax.tree.leaves(more)]
    assert all((x != y).all() for i, x in enumerate(leaves) for y in leaves[:i])
    other = params.init({"a": spec()}, jax.random.key(1))
    assert (np.asarray(other["a"]) != few["a"]).all()


def test_axes_kinds_and_abstract_values_mirror_the_specs(small):
    cfg, _ = small
    specs = trm.specs(cfg)
    layer = specs["weights"]["layers"]["0"]
    assert layer["mlp"]["gate_up"].axes == ("embed", None, "mlp")
    assert layer["mlp_t"]["gate_up"].axes == ("tokens", None, "mlp")
    assert specs["puzzle_emb"].axes == ("puzzles", None) and specs["puzzle_emb"].kind == "rows"
    kinds = {spec.kind for spec in jax.tree.leaves(specs["weights"], is_leaf=params.is_spec)}
    assert kinds == {"matrix", "embedding", "head", "vector"}
    assert params.count(specs) == params.count(params.abstract(specs))


def test_a_spec_needs_one_axis_name_per_dimension():
    with pytest.raises(ValueError, match="2 dimensions but 1 axis names"):
        params.ParamSpec((2, 3), ("embed",), params.constant(0.0))
