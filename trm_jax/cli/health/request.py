"""What launch/tpu_pod.sh would ask for, as its dry run says it."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from trm_jax.errors import InputError


@dataclass(frozen=True)
class Request:
    """What the launcher would ask for; runs: the settings (KEY=VALUE) of each; shipped: what it sends of the checkout.

    bucket: gs://BUCKET/FOLDER of the runs. project: empty for gcloud's own. service_account: as which the TPU's hosts
    act, empty for the project's default.
    """

    type: str
    version: str
    zone: str
    project: str
    spot: bool
    service_account: str
    bucket: str
    runs: dict[str, list[str]]
    shipped: tuple[str, ...]

    @property
    def region(self) -> str:
        return self.zone.rpartition("-")[0]

    @property
    def root(self) -> str:
        """gs://BUCKET."""
        return "/".join(self.bucket.split("/")[:3])


def understand(printed: str) -> Request:
    """The request behind the commands that the launcher's dry run prints. Raises InputError for one that cannot be."""
    words = shlex.split(printed)
    create = _flags(next(line for line in printed.splitlines() if " queued-resources create " in line))
    kind = create["--accelerator-type"]
    if not re.fullmatch("[a-z0-9]+-[1-9][0-9]*", kind):
        raise InputError(f"--type {kind} is no TPU; write GENERATION-NUMBER, for example v4-64 or v5litepod-16")
    archive = words[words.index("archive") :]
    shipped = archive[next(i for i, word in enumerate(archive) if re.fullmatch("[0-9a-f]{40,}", word)) + 1 :]
    shipped = shipped[: shipped.index("gcloud")]
    runs, folder = {}, ""
    for word in words:
        if word.startswith("--command=") and "worker.sh start " in word:
            train = shlex.split(word.partition("worker.sh start ")[2])[1:]  # ID train NAME --workdir FOLDER ...
            settings = train[train.index("--set") + 1 :] if "--set" in train else []
            runs[train[1]], folder = settings, train[train.index("--workdir") + 1]
    return Request(
        type=kind,
        version=create["--runtime-version"],
        zone=create["--zone"],
        project=create.get("--project", ""),
        spot="--spot" in create,
        service_account=create.get("--service-account", ""),
        bucket=folder.rpartition("/")[0],
        runs=runs,
        shipped=tuple(shipped),
    )


def _flags(line: str) -> dict[str, str]:
    """The flags of a command, --NAME=VALUE and --NAME VALUE alike; of one without a value an empty text."""
    found, last = {}, ""
    for word in shlex.split(line):
        if word.startswith("--"):
            last, _, found[last] = word.partition("=")
        elif last and not found[last]:
            found[last] = word
    return found
