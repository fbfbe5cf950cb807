"""Files of JSON lines under a header that says what they are of: read whole, and written bit by bit.

What is not finished stands beside its place, as NAME.partial, and moves there in one step.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping

from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, append_line, json_lines, write_whole


def numbered(path: AnyPath) -> Iterator[tuple[int, str]]:
    """(number from 1, text) of the lines of a file that are not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; name a file of JSON lines") from None
    except UnicodeDecodeError:
        raise InputError(f"{path} is not text in UTF-8") from None
    yield from ((count, line) for count, line in enumerate(text.split("\n"), 1) if line.strip())


def read(path: AnyPath, kind: str, otherwise: str) -> list[dict]:
    """The header, whose "kind" must be `kind`, and the records. otherwise: what a file of another kind is called.

    Raises InputError for that, and for a line that is no JSON.
    """
    found = []
    for count, line in numbered(path):
        try:
            found.append(json.loads(line))
        except ValueError:
            raise InputError(f"{path}, line {count} is not JSON; is the file whole?") from None
    if not found or not isinstance(found[0], dict) or found[0].get("kind") != kind:
        raise InputError(f"{path} is {otherwise}")
    return found


def partial(path: AnyPath) -> AnyPath:
    return path.with_name(f"{path.name}.partial")


def begin(path: AnyPath, header: dict, force: bool) -> list[dict]:
    """The records that are there already, of the file or of an unfinished one; else an unfinished one is begun.

    Raises InputError where they stand under another header, unless `force`, with which all begins anew.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    for place in (path, partial(path)):
        there = [said for _, said in json_lines(place)]
        lost = len(there) > 1 if place != path else place.exists()  # without records there is nothing to lose
        if force or not lost:
            continue
        if there[:1] != [header]:
            told = ", ".join(_differences(there[0], header) if there else []) or "it is another kind of file"
            raise InputError(f"{place} is there, of another run ({told}); --force begins anew, or name another")
        return there[1:]
    write_whole(partial(path), _text([header]))
    return []


def add(path: AnyPath, records: Iterable[dict]) -> None:
    """Add records to the unfinished file, which a kill may cut in the midst of them."""
    append_line(partial(path), _text(records).decode().rstrip("\n"))


def finish(path: AnyPath, header: dict, records: Iterable[dict]) -> None:
    """Put all records in their place, in one step; the unfinished file goes."""
    write_whole(path, _text([header, *records]))
    partial(path).unlink(missing_ok=True)


def _text(said: Iterable[dict]) -> bytes:
    return "".join(f"{json.dumps(one)}\n" for one in said).encode()


def _differences(one: dict, other: dict) -> list[str]:
    """What differs, as "max_new_tokens 24, not 150"; of long values the name alone."""

    def flat(said: object) -> dict:
        known = said if isinstance(said, Mapping) else {}
        return {**known, **known.get("settings", {}), "settings": None}

    old, new = flat(one), flat(other)
    names = [name for name in new if name in old and old[name] != new[name]]
    short = [len(f"{old[name]}{new[name]}") < 60 for name in names]
    return [f"{name} {old[name]}, not {new[name]}" if few else name for name, few in zip(names, short, strict=True)]
