"""Every command in the README and in docs/ is one: it parses, and what it names exists; links lead somewhere."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from trm_jax.cli import main
from trm_jax.cli.arguments import changes
from trm_jax.configs import registry, resolve
from trm_jax.configs.defaults import defaults
from trm_jax.errors import InputError
from trm_jax.planning import find, plan

ROOT = Path(__file__).resolve().parents[1]
# What a reader puts something of their own for, and something to check the command with.
PLACEHOLDERS = {"NAME": "baseline", "STEP": "100", "HOST:PORT": "host0:8476"}


def commands(page: str, program: str = "trm ") -> list[str]:
    """The `trm ...` lines of a page's code blocks, and those that stand in its text and tables with arguments; or those
    of another program."""
    blocks = re.findall(r"^```bash\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    outside = re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)
    lines += [text for text in re.findall(r"`([^`]+)`", outside) if " " in text.removeprefix("trm ")]
    return [line for line in lines if line.startswith(program)]


def words(command: str) -> list[str]:
    """Arguments of a command line: an optional part [--x] is given, a placeholder [X] is not, of a|b the first is."""
    command = re.sub(r"\[(--[^\]]*)\]", r"\1", command)
    command = re.sub(r"\[[A-Z]+\]", "", command)
    parts = [part.split("|")[0] if "|" in part else part for part in shlex.split(command, comments=True)[1:]]
    return [PLACEHOLDERS.get(part, part) for part in parts]


FILES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = {str(file.relative_to(ROOT)): file.read_text() for file in FILES}
EVERY = [(name, command) for name, page in PAGES.items() for command in commands(page)]


@pytest.mark.parametrize(("page", "command"), EVERY, ids=[f"{page}: {command}" for page, command in EVERY])
def test_a_command_is_one(page, command):
    args = main.parser().parse_args(words(command))
    names = [*getattr(args, "words", []), *getattr(args, "what", [])]
    names = registry.select([name for name in names if not name.startswith(("runs/", "gs://"))]) if names else []
    names += [getattr(args, key) for key in ("name", "diff", "config") if getattr(args, key, None)]
    settings = changes(args) if hasattr(args, "set") else {}
    for config in [registry.get(name) for name in names] or [defaults()]:
        resolve.freeze(resolve.override(config, settings))
    if hasattr(args, "pattern"):
        assert any(args.pattern.strip("*") in name for name in [*registry.catalogue(), *registry.groups()])


# What trains on GPUs looks for them even in a dry run; a job for SLURM does not.
LAUNCHES = [
    (name, command)
    for name, page in PAGES.items()
    for command in commands(page, "launch/")
    if not command.startswith("launch/gpu.sh") or "--slurm" in command
]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="what is launched is a commit of a checkout")
@pytest.mark.parametrize(("page", "command"), LAUNCHES, ids=[f"{page}: {command}" for page, command in LAUNCHES])
def test_a_launch_is_one(page, command):
    """Its dry run prints what it would do."""
    script, *arguments = shlex.split(command, comments=True)
    arguments = [PLACEHOLDERS.get(one, one) for one in arguments if one != "--dry-run"]
    own = ["--dry-run", "--dirty"] if script.endswith("tpu_pod.sh") else ["--dry-run"]
    environ = os.environ | {"TRM_PYTHON": sys.executable}
    done = subprocess.run(["bash", ROOT / script, *own, *arguments], env=environ, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout, done.stderr


def test_the_pages_hold_commands_of_every_kind():
    """The test above is worth what it finds."""
    found = {words(command)[0] for page, command in EVERY if page == "docs/guide.md"}
    assert found >= set("list show plan train sweep data eval solve export report compare doctor".split())
    assert len([command for page, command in EVERY if page == "README.md"]) > 10
    assert {page for page, command in LAUNCHES} >= {"docs/gpu.md", "docs/tpu.md"} and len(LAUNCHES) > 6
    assert words("trm eval RUN [--checkpoint best|latest|STEP]  # a comment") == ["eval", "RUN", "--checkpoint", "best"]


@pytest.mark.parametrize(
    "command", ["trm trian demo", "trm train demo --wrokdir x", "trm sweep exp99", "trm train demo --set train.stebs=1"]
)
def test_a_command_that_is_none_is_found(command, capsys):
    with pytest.raises((SystemExit, InputError)):
        test_a_command_is_one("", command)


def test_the_guide_s_figures_are_the_program_s():
    page = PAGES["docs/guide.md"]
    pod = find("v4-64")
    made = plan(resolve.freeze(registry.get("baseline")), pod)
    assert f"the baseline has {made.work.steps:,} steps" in page and f"| {made.work.parameters:,} |" in page
    assert f"{60 * made.train_hours:.1f} minutes of training for the baseline on a v4-64 at 40%" in page
    assert f"{pod.chips} chips, {pod.chips} JAX devices, {pod.hosts} hosts" in page
    [warning] = plan(resolve.freeze(registry.get("baseline")), find("h100")).warnings
    assert "set train.accumulation=4," in warning and "the accumulation that fits: 4" in page


def test_every_experiment_that_the_guide_names_exists():
    named = set(re.findall(r"\b(?:exp\d\d\w*|contrib\d\d\w*|baseline\w*)", PAGES["docs/guide.md"]))
    assert len(named) > 15
    for name in named:
        registry.select([name])


EXAMPLES = re.findall(r"^```python\n(.*?)^```", PAGES["README.md"], re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=["trm", "decoder"])
def test_the_readme_s_examples_run_and_print_what_they_say(example, capsys):
    exec(compile(example, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip() == re.search(r"print\(.*\)  # (.*)", example)[1]


def anchors(page: str) -> set[str]:
    """What GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", PAGES[page]):
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file.read_text()), target


def test_every_page_is_in_the_index():
    index = PAGES["docs/README.md"]
    assert all(f"({file.name})" in index for file in FILES[1:] if file.name != "README.md")


def test_the_settings_page_explains_every_setting_and_no_other():
    named = re.findall(r"^\| (`.*?`) \|", PAGES["docs/settings.md"], re.MULTILINE)
    assert {name for names in named for name in re.findall(r"`([\w.]+)`", names)} == set(resolve.flatten(defaults()))
