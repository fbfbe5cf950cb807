"""A wheel built once from a copy of the sources, and an environment with nothing but that wheel installed."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "trm_jax", "experiments")


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: setuptools leaves build/ beside its sources, and takes up what it finds there."""
    copy, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, copy / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(copy)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def outside(wheel, tmp_path_factory):
    """Runs a command of the installed wheel in an empty folder from which nothing leads to the checkout.

    pip installs the wheel alone; its dependencies come from the environment of the tests, by a path file.
    """
    place = tmp_path_factory.mktemp("outside")
    venv.create(place / "env", symlinks=True)
    python = place / "env/bin/python"
    # With the checkout on its path, pip would take an egg-info there for an installed package.
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    purelib = subprocess.check_output(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    ).strip()
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", str(wheel)], check=True, env=environ)
    Path(purelib, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    work = place / "work"
    work.mkdir()

    def run(command: str, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [place / "env/bin" / command, *arguments], cwd=work, env=environ, capture_output=True, text=True
        )

    return run
