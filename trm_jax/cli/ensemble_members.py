"""Who the members of an ensemble are: words of the command line, or a configuration, and what makes their answers."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trm_jax.cli.arguments import command
from trm_jax.cli.ensemble_plan import missing
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path

if TYPE_CHECKING:
    from trm_jax.solvers.configuration import Configuration
    from trm_jax.tasks.arc.vote import Ballot


class Given(NamedTuple):
    """A member as it stands on the command line."""

    name: str
    file: AnyPath
    weight: float | None

    def __str__(self) -> str:
        return f"{self.name}={self.file}" + ("" if self.weight is None else f":{self.weight:g}")


def parse(text: str) -> Given:
    """NAME=FILE or NAME=FILE:WEIGHT."""
    from trm_jax.tasks.arc.predictions import NAME

    name, equals, file = text.partition("=")
    if not equals or not NAME.fullmatch(name):
        raise InputError(f"{text!r} is no member; write NAME=FILE:WEIGHT, as trm=runs/arc1/predictions.jsonl:.25")
    before, _, after = file.rpartition(":")
    try:
        file, weight = (before, float(after)) if before else (file, None)
    except ValueError:
        weight = None  # the colon is the file's
    return Given(name, as_path(file), weight)


def different(given: list[Given]) -> list[Given]:
    """The members, each of which has a name and a file of its own. Raises InputError."""

    def place(file: AnyPath) -> AnyPath:
        return file.resolve() if isinstance(file, Path) else file

    for number, one in enumerate(given):
        for other in given[:number]:
            if one.name == other.name:
                raise InputError(f"{one.name} stands there twice; give each member once")
            if place(one.file) == place(other.file):
                raise InputError(f"{other.name} and {one.name} are both {other.file}; give each member once")
    return given


def weights_of(given: list[Given]) -> list[float]:
    """The members' weights as they are given, or all alike. Raises InputError where some have none."""
    weights = [one.weight for one in given]
    if None not in weights:
        return weights
    if len(set(weights)) > 1:
        lacking = given[weights.index(None)].name
        raise InputError(f"{lacking} has no weight and others have one; write NAME=FILE:WEIGHT for all, or for none")
    return [1.0] * len(given)


class Entry(NamedTuple):
    """A member whose file was read; seen: what is known of answers that it was trained on, by its header and by sets
    of the header's names that lie beside the one asked."""

    given: Given
    ballot: Ballot
    tasks: Mapping  # that it was asked
    trained_on: Sequence[str] = ()
    seen: str | None = None


def enter(given: Given, data: AnyPath, every: Mapping) -> Entry:
    """Read a member. Raises InputError for answers to other tasks than `every` of `data`."""
    from trm_jax.solvers.seen import by_header
    from trm_jax.tasks.arc.predictions import asked, contaminated, read, read_ballot
    from trm_jax.tasks.arc.submission import NOTHING, read_submission
    from trm_jax.tasks.arc.vote import Ballot

    if not given.file.name.endswith(".json"):
        header, ballot = read(given.file)[0], read_ballot(given.file)
        one = Entry(given, ballot, asked(given.file, every), header.member.trained_on, contaminated(header))
        known = by_header(header, one.tasks, data.parent)
        if known.ids:
            one = one._replace(seen=one.seen or str(known))
        elif known.pairs:
            print(f"note: {given.name} was trained on {known}", file=sys.stderr)
        said = [key for key, _ in ballot.ranked()]
    else:
        ballot, found = Ballot(), read_submission(given.file)
        for key, grids in found.items():
            if [grid.tolist() for grid in grids] != [NOTHING]:  # which says that nothing was found
                for place, grid in enumerate((grid for grid in grids if grid.size), 1):
                    ballot.add(*key, grid, place, weight=1 / place)
        said = [*found]
        one = Entry(given, ballot, {name: every[name] for name, _ in said if name in every})
    for name, test in said:
        if name not in one.tasks or test >= len(one.tasks[name].test):
            where = "is not among the tasks given; name the set that it belongs to"
            raise InputError(f"{given.file}: task {name}, test {test} {where}")
    return one


def of_config(args, config: Configuration, given: list[Given]) -> list[Given]:
    """The members of a configuration whose predictions are there, once those that can be made are. A dry run
    makes none, and prints what would be run.

    Members given by name stand in place of the configuration's files. Raises InputError for other names.
    """
    from trm_jax.cli.arc_run import stage

    for one in given:
        if one.name not in config.members:
            raise InputError(f"{one.name} is no member of {config.name}; it has {', '.join(config.members)}")
    named, found, said = {one.name: one for one in given}, [], []
    for name, part in config.members.items():
        weight = part.weight if args.mode == "weighted" and not args.tune_weights else None
        workdir = Path("runs") / f"ensemble_{config.name}" / name
        filled = {"data": shlex.quote(str(args.data or "TASKS")), "workdir": workdir}
        file = as_path(part.predictions.format(**filled))
        commands = [text.format(**filled) for text in part.commands]
        first = [text.format(**filled) for text in part.first]
        if name in named or file.exists():
            one = named.get(name, Given(name, file, None))
            found.append(one if one.weight is not None else one._replace(weight=weight))
            said.append(f"{name}: {one.file} is there")
        elif lacking := missing(part):
            said.append(f"{name}: left out, for {', '.join(lacking)} is missing; then: {'; '.join(first + commands)}")
        elif part.runs_code:
            said.append(f"{name}: left out, for it runs code that a model wrote; start it: {'; '.join(commands)}")
        else:
            said.append(f"{name}: {'; '.join(commands)}")
            found.append(Given(name, file, weight))
            if not args.dry_run:
                for text in commands:
                    stage(*shlex.split(text)[1:])
    for line in said:
        print(line, file=sys.stdout if args.dry_run else sys.stderr)
    if args.dry_run:
        words = (*map(str, found), "--data", args.data or "TASKS", "--output", args.output or "results.json")
        print(command("ensemble", *words) if found else f"nothing of configuration {config.name} is there to vote")
    elif not found:
        raise InputError(f"nothing of configuration {config.name} is there; --dry-run says what each member needs")
    return found
