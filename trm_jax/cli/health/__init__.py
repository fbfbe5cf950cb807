"""What `trm doctor` looks at: small functions from a `Subject` to `Check`s that name their remedy."""

from collections.abc import Callable, Iterator

from trm_jax.cli.health.check import Check, Subject
from trm_jax.cli.health.devices import accelerators, devices
from trm_jax.cli.health.experiment import fitness, puzzles
from trm_jax.cli.health.host import environment, extras, memory, packages, processor, python
from trm_jax.cli.health.network import coordinator
from trm_jax.cli.health.storage import bucket, compiler_cache, data, workdir

# The order is that of the table. A later check joins by being added here.
CHECKS: tuple[Callable[[Subject], Iterator[Check]], ...] = (
    python,
    packages,
    extras,
    processor,
    memory,
    workdir,
    bucket,
    data,
    puzzles,
    devices,
    accelerators,
    fitness,
    coordinator,
    compiler_cache,
    environment,
)


def examine(subject: Subject) -> list[Check]:
    """All findings about `subject`, in the order of `CHECKS`."""
    return [check for examination in CHECKS for check in examination(subject)]
