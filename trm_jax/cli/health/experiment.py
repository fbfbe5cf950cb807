"""Whether this machine's devices can take the experiments that are named, and whether their puzzles are here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trm_jax.cli.health.check import Check, Subject, installed_version, pip_install
from trm_jax.cli.health.host import total_memory
from trm_jax.cli.health.storage import NO_DATA, UNUSABLE, describe_data, unusable
from trm_jax.errors import InputError
from trm_jax.storage.paths import as_path

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from trm_jax.planning import Device

    Experiments = Sequence[tuple[str, ConfigDict]]  # by name

HUB_CLIENT = "huggingface_hub"  # the package that data.source=hub needs
GENERATED = "generated when they are needed"
_HUB_TIMEOUT_S = 10.0


def fitness(subject: Subject) -> Iterator[Check]:
    """Batches and memory of the experiments, held against the devices that JAX finds."""
    if subject.experiments and not subject.probe.failure:
        yield from fits(subject.experiments, _this_machine(subject))


def _this_machine(subject: Subject) -> Device:
    from trm_jax.planning import Device

    first, count = subject.probe.devices[0], len(subject.probe.devices)
    memory = first.memory_bytes or total_memory(subject.root)[0] / count  # CPU devices share that of the machine
    # Its speed does not matter here.
    return Device("this machine", first.kind, round(memory / 1e9, 1), peak_tflops=1.0, bandwidth_tb_s=1.0, chips=count)


def fits(experiments: Experiments, device: Device) -> Iterator[Check]:
    """A row for each experiment that the device cannot take as it is, and one for all that it can.

    Memory is an estimate, where `trm compile` has not been asked; so more than there is fails, less may not be enough.
    """
    from trm_jax.cli.plan import compiled, listed
    from trm_jax.configs.resolve import freeze
    from trm_jax.planning import plan

    good, most = [], 0.0
    for name, config in experiments:
        try:
            found = plan(freeze(config), device, compiled=compiled(name, config, device.name))
        except InputError as error:
            yield Check(f"fit of {name}", "fail", str(error), _remedy(name, str(error)))
            continue
        if found.obstacle:
            yield Check(f"fit of {name}", "fail", found.obstacle, _remedy(name, found.obstacle))
        else:
            good.append(name)
            most = max(most, found.memory_bytes / 1e9)
    if good:
        detail = f"{listed(good)}: at most {most:.1f} GB a chip (planned) and {device.name} has {device.memory_gb:g}"
        yield Check("fit", "ok", detail)


def _remedy(name: str, obstacle: str) -> str:
    """The command that an obstacle names a setting for, else what it says to do."""
    setting = re.search(r"(train\.accumulation|eval\.batch_size)=\d+", obstacle)
    return f"trm train {name} --set {setting[0]}" if setting else obstacle.rpartition("; ")[2]


@dataclass(frozen=True)
class Puzzles:
    """What a run reads: `files` of a data set of the hub or of a folder (`where`), as data.source says."""

    source: str
    where: str
    files: tuple[str, ...]

    def build(self, folder: str) -> str:
        """The command that makes them in a folder."""
        return f"trm data sudoku build --format {self.source} --output-dir {shlex.quote(folder)}"


def puzzles_of(experiments: Experiments) -> Iterator[tuple[str, Puzzles]]:
    """The data sets of the experiments, each once, with a name that says whose it is."""
    from trm_jax.cli.plan import listed

    users: dict[Puzzles, list[str]] = {}
    for name, config in experiments:
        data = config.data
        arrays = ("train/dataset.json", "test/dataset.json")
        files = arrays if data.source == "arrays" else (data.train_file, data.test_file)
        where = {"hub": data.hub_repo, "generated": ""}.get(data.source, data.path)
        users.setdefault(Puzzles(data.source, where, files), []).append(name)
    for needed, names in users.items():
        yield f"puzzles of {listed(names)}", needed


def puzzles(subject: Subject) -> Iterator[Check]:
    """The data sets of the experiments, as this machine has them; of the catalogue when none is named."""
    from trm_jax.configs.defaults import defaults

    for name, needed in puzzles_of(subject.experiments or (("the catalogue", defaults()),)):
        if needed.source == "hub":
            yield _hub(name, needed.where, needed.files, ask=bool(subject.experiments))
        elif needed.source == "generated":
            yield Check(name, "ok", GENERATED)
        else:
            yield _folder(name, needed)


def _folder(name: str, needed: Puzzles) -> Check:
    if not needed.where:
        remedy = f"{needed.build('puzzles')}   # then --set data.path=puzzles"
        return Check(name, "fail", f"data.source={needed.source} and no data.path", remedy)
    try:
        folder = as_path(needed.where).expanduser()
        missing = [file for file in needed.files if not (folder / file).exists()]
        if not missing:
            return Check(name, "ok", f"{folder}: {describe_data(folder)}")
        detail = f"{folder} has no {' and no '.join(missing)}"
    except UNUSABLE as error:
        return unusable(name, error)
    except NO_DATA as error:
        detail = f"{folder}: {error}"
    return Check(name, "fail", detail, needed.build(str(folder)))


def _hub(name: str, repo: str, files: Sequence[str], *, ask: bool) -> Check:
    """Whether a data set of the hub is here or, with `ask`, can be fetched."""
    if not installed_version(HUB_CLIENT):
        return Check(name, "fail" if ask else "warn", f"{repo} needs {HUB_CLIENT}", pip_install(HUB_CLIENT))
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    missing = [file for file in files if not isinstance(try_to_load_from_cache(repo, file, repo_type="dataset"), str)]
    if not missing:
        return Check(name, "ok", f"{repo} is here")
    fetch = f"hf download {repo} {' '.join(files)} --repo-type dataset"
    detail = f"{repo}/{missing[0]} is not here yet; a run fetches it when it starts"
    if ask:
        try:
            get_hf_file_metadata(hf_hub_url(repo, missing[0], repo_type="dataset"), timeout=_HUB_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 - the network fails in many ways, and so does the hub's client
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            detail = f"{repo}/{missing[0]} is not here and cannot be fetched: {reason}"
            return Check(name, "fail", detail, f"{fetch}   # or --set data.source=generated")
    return Check(name, "warn", detail, fetch)
