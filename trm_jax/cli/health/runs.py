"""Whether devices can take the experiments that are named, and whether their puzzles are where they will run."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import trm_jax
from trm_jax.cli.health import Check, failed, installed_version, pip_install
from trm_jax.errors import InputError, OutOfReach
from trm_jax.storage.paths import as_path

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from trm_jax.planning import Device

    Experiments = Sequence[tuple[str, ConfigDict]]  # by name

LAUNCHER = "launch/tpu_pod.sh"
HUB_TIMEOUT_S = 10.0


def fits(experiments: Experiments, device: Device) -> Iterator[Check]:
    """A row for each experiment that the device cannot take as it is (memory is planned), and one for all others."""
    from trm_jax.cli.plan import listed
    from trm_jax.configs.resolve import freeze
    from trm_jax.planning import plan

    good: dict[str, float] = {}
    for name, config in experiments:
        try:
            found = plan(freeze(config), device)
            obstacle = found.obstacle
        except InputError as error:
            obstacle = str(error)
        if obstacle:
            setting = re.search(r"(train\.accumulation|eval\.batch_size)=\d+", obstacle)
            remedy = f"trm train {name} --set {setting[0]}" if setting else obstacle.rpartition("; ")[2]
            yield Check(f"fit of {name}", "fail", obstacle, remedy)
        else:
            good[name] = found.memory_bytes / 1e9
    if good:
        most = f"at most {max(good.values()):.1f} GB a chip (planned)"
        yield Check("fit", "ok", f"{listed([*good])}: {most} and {device.name} has {device.memory_gb:g}")


def puzzles(experiments: Experiments, *, bucket: str = "") -> Iterator[Check]:
    """The data sets of the experiments, each once: as this machine reads them or, where the runs write to `bucket`
    (gs://...), as the hosts of a TPU do, which have no file and no credentials for the hub of this machine."""
    from trm_jax.cli.plan import listed

    users: dict[tuple, list[str]] = {}
    for name, config in experiments:
        data = config.data
        files = (data.train_file, data.test_file) if data.source != "arrays" else ("train", "test")
        where = {"hub": data.hub_repo, "generated": ""}.get(data.source, data.path)
        users.setdefault((data.source, where, files), []).append(name)
    for (source, where, files), names in users.items():
        name = f"puzzles of {listed(names)}"
        if source == "generated":
            yield Check(name, "ok", "generated when they are needed")
        elif source == "hub":
            yield _hub(name, where, files, hosts=bool(bucket))
        else:
            yield _folder(name, source, where, files, bucket)


def _folder(name: str, source: str, where: str, files: Sequence[str], bucket: str) -> Check:
    place = f"{bucket}/puzzles" if bucket else "puzzles"
    build = f"trm data sudoku build --format {source} --output-dir {shlex.quote(where or place)}"
    if not where:
        remedy = f"{build}   # then --set data.path={place}"
        return Check(name, "fail", f"data.source={source} and no data.path", remedy)
    if bucket and not where.startswith("gs://"):
        copy = f"gcloud storage rsync --recursive {shlex.quote(where)} {place}   # then --set data.path={place}"
        return Check(name, "fail", f"the hosts have no {where}; they read gs://, the hub or what they generate", copy)
    try:
        missing = [file for file in files if not (as_path(where).expanduser() / file).exists()]
    except (InputError, OutOfReach) as error:
        return failed(name, error, build)
    if missing:
        return Check(name, "fail", f"{where} has no {' and no '.join(missing)}", build)
    return Check(name, "ok", f"{where} has {' and '.join(files)}")


def _hub(name: str, repo: str, files: Sequence[str], *, hosts: bool) -> Check:
    """Whether a data set of the hub is here or can be fetched; `hosts`: without credentials and what is here."""
    if not installed_version("huggingface_hub"):
        return Check(name, "fail", f"{repo} needs huggingface_hub", pip_install("huggingface_hub"))
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache

    missing = [file for file in files if not isinstance(try_to_load_from_cache(repo, file, repo_type="dataset"), str)]
    if not (missing or hosts):
        return Check(name, "ok", f"{repo} is here")
    fetch = f"hf download {repo} {' '.join(files)} --repo-type dataset"
    try:
        url = hf_hub_url(repo, files[0] if hosts else missing[0], repo_type="dataset")
        get_hf_file_metadata(url, token=False if hosts else None, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # noqa: BLE001 - the network fails in many ways, and so does the hub's client
        status = "warn" if hosts else "fail"  # hosts may reach a hub that this machine does not
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return Check(name, status, f"{repo} cannot be fetched: {reason}", f"{fetch}   # or data.source=generated")
    if hosts:
        return Check(name, "ok", f"the hub gives {repo} to anybody")
    return Check(name, "warn", f"{repo} is not here yet; a run fetches it when it starts", fetch)


def ask_launcher(arguments: Sequence[str], environ: Mapping[str, str]) -> tuple[int, str]:
    """(exit code, printed lines) of `launch/tpu_pod.sh --check ARGUMENT...`; its complaints go to standard error."""
    script = Path(trm_jax.__file__).parents[1] / LAUNCHER
    if not script.is_file():
        raise InputError(f"there is no {script}; work in a checkout of the project")
    environ = {"TRM_PYTHON": sys.executable, **environ}  # it asks this Python for the experiments
    done = subprocess.run(["bash", script, "--check", *arguments], env=environ, stdout=subprocess.PIPE, text=True)
    return done.returncode, done.stdout


def on_tpu(said: str, settings: Mapping[str, str]) -> Iterator[Check]:
    """The findings that the launcher has printed, and those about its runs on the hosts of that TPU."""
    from trm_jax.configs import registry, resolve
    from trm_jax.planning import find

    for line in said.splitlines():
        status, name, *rest = line.split("\t")
        if status != "runs":
            yield Check(name, status, *rest)
            continue
        names, bucket = rest[1].split(), rest[0]
        experiments = [(each, resolve.override(registry.get(each), settings)) for each in names]
        yield from puzzles(experiments, bucket=bucket)
        try:
            yield from fits(experiments, find(name))
        except InputError as error:
            yield Check("fit", "warn", str(error), f"trm plan {names[0]} --device ... --memory GB")
