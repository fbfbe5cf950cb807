"""What every test stands on: eight CPU devices, one thread a library, reproducible examples."""

import os
from pathlib import Path

# Before anything imports NumPy, torch or JAX. A run that should use an accelerator names it in JAX_PLATFORMS.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # test arrays are small: threads would only fight each other
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import jax
import pytest

# By configuration and not by XLA_FLAGS: the programs that tests start see the machine as it is.
jax.config.update("jax_num_cpu_devices", 8)

# Tests are never timed, and a run of the suite is a function of the sources alone.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("suite")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def golden_folder() -> Path:
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference material beside the repository; tests that need it are skipped without it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    return folder


@pytest.fixture(scope="session")
def compilations(tmp_path_factory) -> Path:
    """Where programs are kept once they are compiled, by this process and by those that it starts."""
    return tmp_path_factory.mktemp("compilations")


@pytest.fixture(scope="session")
def boards_of():
    """boards_of(size): 60 generated and proven puzzles, made once."""
    from trm_jax.tasks.sudoku.generator import distinct_puzzles

    made = {}

    def get(size):
        if size not in made:
            extra = 2 if size == 4 else 0
            (made[size],) = distinct_puzzles((60,), size=size, seed=3, extra_clues=extra)
        return made[size]

    return get
