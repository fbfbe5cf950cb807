"""The wheel holds the whole package and works where there is no checkout."""

import email
import re
import zipfile

import pytest


@pytest.fixture(scope="module")
def files(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def metadata(files):
    (name,) = [name for name in files if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(files[name])


def test_holds_every_file_of_the_package_and_the_experiments(files, root):
    def tree(folder, prefix):
        paths = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        return {f"{prefix}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in paths}

    expected = tree(root / "trm_jax", "trm_jax") | tree(root / "experiments", "trm_jax/experiments")
    shipped = {name: content for name, content in files.items() if ".dist-info/" not in name}
    assert shipped == expected
    assert "trm_jax/experiments/baseline.py" in shipped


def test_claims_one_name_in_site_packages(files):
    assert {name.split("/")[0] for name in files if ".dist-info/" not in name} == {"trm_jax"}


def test_metadata(metadata, files, root):
    version = re.search(r'__version__ = "(.+)"', (root / "trm_jax/__init__.py").read_text())[1]
    assert (metadata["Name"], metadata["Version"]) == ("trm_jax", version)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert {"gpu", "gpu-cuda12", "tpu", "hub", "arc", "language", "gguf", "wandb", "torch", "dev"} == set(
        metadata.get_all("Provides-Extra")
    )
    assert any(name.endswith("/licenses/LICENSE") for name in files)


def test_imports_the_installed_package_not_the_checkout(outside, root):
    code = "import trm_jax, pathlib; print(pathlib.Path(trm_jax.__file__).resolve())"
    done = outside("python", "-c", code)
    assert done.returncode == 0, done.stderr
    assert "site-packages/trm_jax" in done.stdout and str(root) not in done.stdout


def test_lists_and_shows_experiments(outside):
    listed = outside("trm", "list")
    assert listed.returncode == 0, listed.stderr
    assert "baseline_768" in listed.stdout
    shown = outside("trm", "show", "baseline")
    assert shown.returncode == 0, shown.stderr
    assert "batch_size" in shown.stdout


def test_diagnoses_its_machine(outside):
    done = outside("trm", "doctor", "--json")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow  # compiles the puzzle generator and the training step
def test_trains(outside):
    done = outside("trm", "train", "demo", "--local", "--set", "train.steps=2", "--workdir", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    scored = outside("trm", "eval", "run")
    assert scored.returncode == 0, scored.stdout + scored.stderr
    assert "exact accuracy" in scored.stdout
