"""With libtpu: its devices, and a training step that it compiles. It is loaded in processes of their own."""

import importlib.metadata
import json
import subprocess
import sys

import pytest

from tests import tiny
from tests.aot.conftest import pretend_libtpu
from trm_jax.aot import compile as aot
from trm_jax.aot import decoder
from trm_jax.configs import registry, resolve
from trm_jax.planning import hardware, language

try:
    VERSION = importlib.metadata.version("libtpu")
except importlib.metadata.PackageNotFoundError:
    pytest.skip("libtpu is not installed: pip install 'jax[tpu]'", allow_module_level=True)


@pytest.fixture(autouse=True)
def versions(monkeypatch):
    """The installed one, and not what the other tests of this folder pretend."""
    pretend_libtpu(monkeypatch, VERSION)
    for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"):
        monkeypatch.delenv(name, raising=False)


def test_libtpu_shows_as_many_devices_as_a_slice_has_chips():
    names = ["v4-8", "v4-16", "v4-64", "v4-128", "v5e-1", "v5e-8", "v5e-16", "v5p-64", "v6e-4", "v6e-256"]
    script = (
        "import json\nfrom trm_jax.aot import programs\nfrom trm_jax.planning import hardware, language\n"
        f"found = [programs.devices(hardware.find_slice(name)) for name in {names}]\n"
        "print(json.dumps([[len(devices), devices[0].device_kind] for devices in found]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=aot.environment(hardware.find_slice("v4-8")),
    )
    assert done.returncode == 0, done.stderr
    kinds = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite"}
    expected = [[hardware.find_slice(name).chips, kinds[name.split("-")[0]]] for name in names]
    assert json.loads(done.stdout.splitlines()[-1]) == expected


@pytest.mark.slow
def test_a_training_step_compiled_for_a_v4_8(tmp_path):
    """Four chips share the batch: what they send is the gradient, the rows' gradients, their ids and a few numbers."""
    changes = {"model.dtype": "bfloat16", "train.batch_size": 64}
    config, topology = tiny.page(changes), hardware.find_slice("v4-8")
    found = aot.compile_program(config, topology, 0, tmp_path)
    assert not found["crash"] and not found["unknown_loops"] and found["collectives_by_kind"].keys() == {"all-reduce"}
    weights = 4 * 29_122  # float32
    moved, memory = found["collectives_by_kind"]["all-reduce"], found["memory_bytes"]
    assert weights < moved["bytes"] < 4 * weights and moved["bytes_in_loops"] == 0
    assert moved["sent_bytes"] == 2 * 3 / 4 * moved["bytes"], "all four take part"
    assert memory["aliased"] > 0.9 * memory["outputs"], "the state is donated"
    assert found["traffic_bytes"] > memory["arguments"]
    [file] = tmp_path.iterdir()
    file.write_text(json.dumps({**found, "traffic_bytes": 1}))
    assert aot.compile_program(config, topology, 0, tmp_path)["traffic_bytes"] == 1, "it is found again"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["maze_hard", "arc1"])
def test_900_cells_fit_a_v4_64(name, tmp_path):
    """A batch of 768 through the splash kernel, forward and backward, in half of a chip's memory."""
    topology = hardware.find_slice("v4-64")
    config = resolve.override(registry.get(name), {"model.attention_impl": "splash"})
    found = aot.compile_program(config, topology, 0, tmp_path)
    assert not found["crash"], found["crash"]
    print({part: f"{size / 1e9:.2f} GB" for part, size in found["memory_bytes"].items()})
    assert found["memory_bytes"]["total"] < topology.usable_bytes / 2
    assert found["collectives_by_kind"].keys() <= {"all-reduce", "all-gather"}, "each chip has its own rows"


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"model.mlp_t": True}, {"model.unroll": "unroll"}, {"train.accumulation": 4}])
def test_the_gradient_is_reduced_once(tmp_path, changes):
    """No all-reduce inside a loop of cycles or of parts of the batch."""
    changes = {"model.dtype": "bfloat16", "train.batch_size": 64, "model.pos_encodings": "none", **changes}
    config, topology = tiny.page(changes), hardware.find_slice("v4-8")
    found = aot.compile_program(config, topology, 0, tmp_path)
    assert not found["crash"] and not found["unknown_loops"]
    assert found["collectives_by_kind"]["all-reduce"]["bytes_in_loops"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("how", "most"), [("", 1.1), ("int8", 1.1), ("int4", 1.8)])
def test_a_language_model_fits_a_v4_8_and_reads_little_more_than_it_must(how, most, tmp_path):
    """Llama-3-8B, tensor 4: its arrays are the plan's; a token moves its weights and its cache, not much besides."""
    topology = hardware.find_slice("v4-8")
    words = {"model": "llama-3-8b", "dtype": None, "rope_theta": None, "how": how, "context": 2048, "rows": 1}
    found = decoder.compile_kind(words, decoder.KINDS[1], topology, tmp_path)
    assert not found["crash"] and found["collectives_by_kind"].keys() == {"all-reduce"}
    _, cfg, declared = language.find("llama-3-8b")
    planned = language.needs(language.Asked(cfg, declared, how, 2048, 1), topology)
    memory = found["memory_bytes"]
    assert memory["total"] < planned.total and memory["arguments"] == pytest.approx(
        sum(planned.parts.values()), rel=1e-3
    )
    assert 1 < found["traffic_bytes"] / planned.read < most
