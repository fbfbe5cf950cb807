"""Whether a model has been trained on what it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath
from trm_jax.tasks.arc.files import Tasks, read_json, read_tasks
from trm_jax.tasks.arc.verify import overlaps

RECORD = "finetune.json"  # beside the weights that `trm finetune` wrote


@dataclass(frozen=True)
class Seen:
    """What a model was trained on, and which of the tasks it is asked are among that."""

    sets: tuple[str, ...]  # their names
    ids: tuple[str, ...]  # tasks of a set that it was trained on have these names
    pairs: tuple[str, ...]  # tasks with a demonstration that stands in such a set, maybe turned or recoloured

    def __str__(self) -> str:
        found = []
        if self.ids:
            found.append(f"{len(self.ids)} task ids ({_some(self.ids)})")
        if self.pairs:
            found.append(f"demonstrations of {len(self.pairs)} tasks, turned or recoloured ({_some(self.pairs)})")
        return f"{' and '.join(found) or 'nothing of these tasks'} in {', '.join(self.sets)}"


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _told(folder: AnyPath) -> dict[str, set[str]]:
    """Names of sets that a model's folder says it was trained on -> ids."""
    if not (folder / RECORD).is_file():
        return {}
    said = read_json(folder / RECORD)
    trained = said.get("trained_on") if isinstance(said, Mapping) else None
    if not isinstance(trained, Mapping) or not isinstance(trained.get("tasks"), list):
        raise InputError(f"{folder / RECORD} does not say what the model was trained on; write the folder once more")
    return {str(trained.get("name")): set(map(str, trained["tasks"]))}


def seen(asked: Tasks, folders: Iterable[AnyPath], sets: Iterable[AnyPath]) -> Seen:
    """What of the tasks that are asked a model has seen: by what its folders say of it, and by sets given as files.

    No answer to a test input of theirs is looked at: demonstrations tell which tasks they are.
    """
    told: dict[str, set[str]] = {}
    for folder in folders:
        told |= _told(folder)
    known = {path.name: read_tasks(path) for path in sets}
    told |= {name: set(tasks) for name, tasks in known.items()}
    trained = set().union(*known.values())
    pairs = {one.task for one in overlaps(asked, known.values(), of="train") if one.other in trained}
    ids = asked.keys() & set().union(*told.values())
    return Seen(tuple(told), tuple(sorted(ids)), tuple(sorted(pairs - ids)))
