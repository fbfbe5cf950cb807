"""The Makefile names its targets and says clearly when it cannot make an environment."""

import re
import shutil
import subprocess

import pytest


@pytest.fixture
def make(root, tmp_path):
    """Runs make on a copy of the Makefile, so that no environment is made in the checkout."""
    for name in ("Makefile", "setup.py"):
        shutil.copy(root / name, tmp_path / name)

    def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [shutil.which("make"), *arguments], cwd=tmp_path, env=environ, capture_output=True, text=True
        )

    return run


def test_help_is_the_default_and_lists_every_target(make, root):
    done = make(PATH="/usr/bin:/bin")
    assert done.returncode == 0, done.stderr
    phony = re.search(r"^\.PHONY: (.+)$", (root / "Makefile").read_text(), re.M)[1].split()
    assert {line.split()[1] for line in done.stdout.splitlines()} == set(phony)


def test_without_a_suitable_python_one_line_says_so(make, tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("sh", "true"):
        (tools / tool).symlink_to(shutil.which(tool))
    done = make("install", "PYTHON=nowhere/python3", PATH=str(tools))
    assert done.returncode == 2
    messages = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(messages) == 1 and "3.11" in messages[0] and "make PYTHON=" in messages[0]
    assert not (tmp_path / ".venv").exists()


def test_a_python_that_is_too_old_is_passed_over(make, tmp_path):
    """So is whatever else fails the question for its version, as a version manager's empty shim does."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "sh").symlink_to(shutil.which("sh"))
    old = tools / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")
    chosen = tools / "python3.12"
    chosen.write_text(
        '#!/bin/sh\n[ "$1" = -c ] && exit 0\n[ "$1" = --version ] && echo "Python 3.12.9" && exit 0\nexit 3\n'
    )
    for path in (old, chosen):
        path.chmod(0o755)
    done = make("install", PATH=str(tools))
    assert "installing into .venv with Python 3.12.9" in done.stdout
    assert done.returncode != 0  # this stand-in makes no environment, and make does not go on without one
