"""Whether this machine's devices can take the experiments that are named, and whether their puzzles are here."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trm_jax.cli.health.check import Check, Subject, installed_version, pip_install
from trm_jax.cli.health.host import total_memory
from trm_jax.cli.health.storage import NO_DATA, describe_data
from trm_jax.errors import InputError
from trm_jax.storage.paths import as_path

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from trm_jax.planning import Device

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


def fits(experiments: Sequence[tuple[str, ConfigDict]], device: Device) -> Iterator[Check]:
    """A row for each experiment that the device cannot take as it is, and one for all that it can.

    Memory is an estimate, where `trm compile` has not been asked; so more than there is fails, less may not be enough.
    """
    from trm_jax.cli.plan import compiled, listed
    from trm_jax.configs.resolve import freeze
    from trm_jax.planning import plan

    good, most = [], 0.0
    for name, config in experiments:
        try:
            found = plan(freeze(config), device, verdict=compiled(name, config, device.name))
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


def puzzles(subject: Subject) -> Iterator[Check]:
    """The data sets of the experiments, each once; of the catalogue when none is named."""
    from trm_jax.cli.plan import listed
    from trm_jax.configs.defaults import defaults

    users: dict[tuple, list[str]] = {}
    for name, config in subject.experiments or (("the catalogue", defaults()),):
        data = config.data
        arrays = ("train/dataset.json", "test/dataset.json")
        files = arrays if data.source == "arrays" else (data.train_file, data.test_file)
        where = {"hub": data.hub_repo, "generated": ""}.get(data.source, data.path)
        users.setdefault((data.source, where, files), []).append(name)
    for (source, where, files), names in users.items():
        name = f"puzzles of {listed(names)}"
        if source == "hub":
            yield _hub(name, where, files, ask=bool(subject.experiments))
        elif source == "generated":
            yield Check(name, "ok", "generated when they are needed")
        else:
            yield _folder(name, source, where, files)


def _folder(name: str, source: str, where: str, files: Sequence[str]) -> Check:
    build = f"trm data sudoku build --format {source} --output-dir"
    if not where:
        remedy = f"{build} puzzles   # then --set data.path=puzzles"
        return Check(name, "fail", f"data.source={source} and no data.path", remedy)
    folder = as_path(where).expanduser()
    try:
        missing = [file for file in files if not (folder / file).exists()]
        if not missing:
            what = describe_data(folder) if isinstance(folder, Path) else "in a bucket, and not looked into"
            return Check(name, "ok", f"{folder}: {what}")
        detail = f"{folder} has no {' and no '.join(missing)}"
    except NO_DATA as error:
        detail = f"{folder}: {error}"
    return Check(name, "fail", detail, f"{build} {shlex.quote(str(folder))}")


def _hub(name: str, repo: str, files: Sequence[str], *, ask: bool) -> Check:
    """Whether a data set of the hub is here or, with `ask`, can be fetched."""
    if not installed_version("huggingface_hub"):
        return Check(name, "fail" if ask else "warn", f"{repo} needs huggingface_hub", pip_install("huggingface_hub"))
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
