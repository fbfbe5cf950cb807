"""Whether a model has been trained on what it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from trm_jax.errors import InputError
from trm_jax.language import peft
from trm_jax.language.model import digest
from trm_jax.storage.paths import AnyPath
from trm_jax.tasks.arc.files import Tasks, read_json, read_tasks
from trm_jax.tasks.arc.predictions import Header
from trm_jax.tasks.arc.verify import key, overlaps

LEAVE_OUT = ("trm", "arc_transformer")  # kinds of members whose training refuses or drops the tasks asked
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


def require_base(adapter: AnyPath, model: Path) -> str:
    """Raise InputError for an adapter whose folder says that it was trained beside another model than this one.

    What a person should know of one that was made elsewhere and names another model, which tells less: else empty.
    """
    said = read_json(adapter / RECORD) if (adapter / RECORD).is_file() else {}
    if isinstance(said, Mapping) and "base" in said:
        if said["base"] != digest(model):
            raise InputError(f"{adapter} was trained beside another model than {model}; name that one")
        return ""
    made = read_json(adapter / peft.CONFIG) if (adapter / peft.CONFIG).is_file() else {}
    base = made.get("base_model_name_or_path") if isinstance(made, Mapping) else None
    if not isinstance(base, str) or base.rstrip("/").rpartition("/")[2] == model.absolute().name:
        return ""
    return f"{adapter} says that it was trained beside {base}; beside another model than that it means nothing"


class Told(NamedTuple):
    """What a folder says that its model was trained on."""

    name: str  # of the sets
    tasks: set[str]
    pairs: set[str]  # `verify.key` of each


def record(name: str, tasks: Tasks, before: Sequence[Told]) -> dict:
    """For a model's folder: that it was trained on all pairs of these tasks, and on what it was trained on before."""
    pairs = {key(pair) for task in tasks.values() for pair in task.pairs if pair.output is not None}
    every = [Told(name, set(tasks), pairs), *before]
    names = ", ".join(dict.fromkeys(one.name for one in every))
    ids, keys = (sorted(set().union(*(one[place] for one in every))) for place in (1, 2))
    return {"name": names, "tasks": ids, "pairs": keys}


def told(folders: Iterable[AnyPath]) -> list[Told]:
    """What models' folders say they were trained on, those of them that say something."""
    found = []
    for folder in folders:
        if (folder / RECORD).is_file():
            said = read_json(folder / RECORD)
            trained = said.get("trained_on") if isinstance(said, Mapping) else None
            if not isinstance(trained, Mapping) or not isinstance(trained.get("tasks"), list):
                named = f"{folder / RECORD} does not say what the model was trained on"
                raise InputError(f"{named}; write the folder once more")
            ids, pairs = (set(map(str, trained.get(what) or ())) for what in ("tasks", "pairs"))
            found.append(Told(str(trained.get("name")), ids, pairs))
    return found


def seen(asked: Tasks, folders: Iterable[AnyPath], sets: Iterable[AnyPath]) -> Seen:
    """What of the tasks that are asked a model has seen: by what its folders say of it, and by sets given as files.

    No answer to a test input of theirs is looked at: demonstrations tell which tasks they are.
    """
    known, said = [(path.name, read_tasks(path)) for path in sets], told(folders)
    trained = set().union(*(tasks for _, tasks in known))
    pairs = {one.task for one in overlaps(asked, [tasks for _, tasks in known], of="train") if one.other in trained}
    if keys := set().union(*(one.pairs for one in said)):
        pairs |= {name for name, task in asked.items() if any(key(pair) in keys for pair in task.train)}
    ids = asked.keys() & trained.union(*(one.tasks for one in said))
    names = [*(one.name for one in said), *(name for name, _ in known)]
    return Seen(tuple(dict.fromkeys(names)), tuple(sorted(ids)), tuple(sorted(pairs - ids)))


def by_header(header: Header, asked: Tasks, folder: AnyPath) -> Seen:
    """The same of a member by its predictions' header: sets whose answers it has seen are compared where they lie in
    `folder` under their names. What `trm train` trains has left out whatever is asked."""
    whole = [name for name in header.member.trained_on if not name.endswith(":demonstrations")]
    places = [folder / name.removesuffix(":all") for name in whole if header.member.kind not in LEAVE_OUT]
    return seen(asked, [], [place for place in places if place.exists()])
