"""Whether a model has been trained on what it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath
from trm_jax.tasks.arc.files import Tasks, read_json, read_tasks
from trm_jax.tasks.arc.predictions import Header
from trm_jax.tasks.arc.verify import overlaps

LEAVE_OUT = ("trm", "arc_transformer", "hybrid")  # kinds of members whose training refuses or drops the tasks asked
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


def told(folders: Iterable[AnyPath]) -> list[tuple[str, set[str]]]:
    """(name of a set, ids in it) of all that models' folders say they were trained on."""
    found = []
    for folder in folders:
        if (folder / RECORD).is_file():
            said = read_json(folder / RECORD)
            trained = said.get("trained_on") if isinstance(said, Mapping) else None
            if not isinstance(trained, Mapping) or not isinstance(trained.get("tasks"), list):
                named = f"{folder / RECORD} does not say what the model was trained on"
                raise InputError(f"{named}; write the folder once more")
            found.append((str(trained.get("name")), set(map(str, trained["tasks"]))))
    return found


def seen(asked: Tasks, folders: Iterable[AnyPath], sets: Iterable[AnyPath]) -> Seen:
    """What of the tasks that are asked a model has seen: by what its folders say of it, and by sets given as files.

    No answer to a test input of theirs is looked at: demonstrations tell which tasks they are.
    """
    known = [(path.name, read_tasks(path)) for path in sets]
    trained = set().union(*(tasks for _, tasks in known))
    pairs = {one.task for one in overlaps(asked, [tasks for _, tasks in known], of="train") if one.other in trained}
    every = [*told(folders), *known]  # two sets may have one name
    ids = asked.keys() & set().union(*(tasks for _, tasks in every))
    return Seen(tuple(dict.fromkeys(name for name, _ in every)), tuple(sorted(ids)), tuple(sorted(pairs - ids)))


def by_header(header: Header, asked: Tasks, folder: AnyPath) -> Seen:
    """The same of a member by its predictions' header: sets whose answers it has seen are compared where they lie in
    `folder` under their names. What `trm train` trains has left out whatever is asked."""
    whole = [name for name in header.member.trained_on if not name.endswith(":demonstrations")]
    places = [folder / name.removesuffix(":all") for name in whole if header.member.kind not in LEAVE_OUT]
    return seen(asked, [], [place for place in places if place.exists()])
