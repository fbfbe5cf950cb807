"""The lists of dependencies agree with one another and with what the code imports."""

import ast
import importlib.metadata
import re
import sys
import zipfile

import pytest
from packaging.requirements import Requirement

from trm_jax.cli.health.machine import OPTIONAL, REQUIRED
from trm_jax.configs import registry


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.fixture(scope="module")
def requirements(wheel) -> list[Requirement]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        text = archive.read(name).decode()
    return [Requirement(line) for line in re.findall(r"^Requires-Dist: (.+)$", text, re.M)]


@pytest.fixture(scope="module")
def mandatory(requirements):
    return [requirement for requirement in requirements if requirement.marker is None]


def test_tpu_workers_install_exact_versions_of_what_the_catalogue_needs(requirements, mandatory, root):
    """Its experiments read the hub, for which there is an extra."""
    lines = (root / "requirements-tpu.txt").read_text().splitlines()
    pins = {pin.name: pin for pin in (Requirement(line) for line in lines if not line.startswith("#"))}
    hub = [entry for entry in requirements if str(entry.marker) == 'extra == "hub"']
    assert registry.get("baseline").data.source == "hub" and len(hub) == 1
    needed = {entry.name: entry for entry in (*mandatory, *hub)}
    assert pins.keys() == needed.keys() | {"jaxlib", "libtpu"}
    for name, pin in pins.items():
        (version,) = (clause.version for clause in pin.specifier if clause.operator == "==")
        if name in needed:
            assert needed[name].specifier.contains(version), pin
            assert pin.extras == needed[name].extras | ({"tpu"} if name == "jax" else set())


def test_the_environment_of_the_tests_satisfies_the_bounds(mandatory):
    for requirement in mandatory:
        assert requirement.specifier.contains(importlib.metadata.version(requirement.name)), requirement


def test_the_doctor_looks_for_what_is_required_and_for_each_extra(requirements, mandatory):
    assert {canonical(name) for name in REQUIRED} - {"jaxlib"} == {canonical(entry.name) for entry in mandatory}
    optional = [
        entry for entry in requirements if re.search("extra == .(hub|wandb|torch|language|gguf).", str(entry.marker))
    ]
    assert {canonical(name) for name in OPTIONAL} == {canonical(entry.name) for entry in optional}


def test_every_import_is_declared(requirements, root):
    """What the code imports is a declared dependency, not one that another package happens to bring along."""
    distributions = importlib.metadata.packages_distributions()
    declared = {canonical(entry.name) for entry in requirements} | {"jaxlib"}
    undeclared = {}
    for path in [*(root / "trm_jax").rglob("*.py"), *(root / "experiments").rglob("*.py")]:
        for module in imported_modules(path) - set(sys.stdlib_module_names) - {"trm_jax"}:
            if not {canonical(name) for name in distributions.get(module, [module])} & declared:
                undeclared.setdefault(module, path.relative_to(root).as_posix())
    assert not undeclared


def imported_modules(path) -> set[str]:
    """Top-level names of the absolute imports anywhere in a file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.add(node.module.split(".")[0])
    return found
