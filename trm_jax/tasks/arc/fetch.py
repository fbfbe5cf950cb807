"""The public sets of ARC tasks from the repositories of their authors, held against known digests."""

from __future__ import annotations

import http.client
import io
import re
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from pathlib import Path

from trm_jax.errors import InputError, OutOfReach
from trm_jax.storage.bucket import PASSING
from trm_jax.tasks.arc.files import digest, read_tasks

# Name of a set here -> (repository and version, folder in it, digest of its tasks).
PUBLIC = {
    "training": (
        "fchollet/ARC-AGI/archive/3990304.tar.gz",
        "data/training",
        "cbaa9e25315b5e148a0e44da39ee01f5198ab21d48e9b19b0820410a7db01950",
    ),
    "evaluation": (
        "fchollet/ARC-AGI/archive/3990304.tar.gz",
        "data/evaluation",
        "46b27a6330e9b2dde16e33c81f80f96a3d7553d1c44b14eb712a256349fd55f5",
    ),
    "training2": (
        "arcprize/ARC-AGI-2/archive/f3283f7.tar.gz",
        "data/training",
        "f8454239fb634f74a14f2a780c9fd44762d08ab70b9584f836eda3ff75695518",
    ),
    "evaluation2": (
        "arcprize/ARC-AGI-2/archive/f3283f7.tar.gz",
        "data/evaluation",
        "93d3e1b76403937ce5424ae507a37d62a94c0d0e74c8fa01314c0e5572061d98",
    ),
    "concept": (
        "victorvikram/ConceptARC/archive/main.tar.gz",
        "corpus",
        "cc8a676f97b78fca5b20757a76773828b3f413b69dc0895387c902e50474786f",
    ),
}
_TIMEOUT_S = 60.0


def fetch(name: str, folder: Path, server: str = "https://github.com") -> str:
    """Fetch the set `name` to folder/name, unless something is there; what a person should know of that, or nothing.

    What comes is held against the known digest. Raises OutOfReach for a server that does not answer, InputError for an
    unknown set or other tasks.
    """
    target = folder / name
    if target.exists():
        same = name not in PUBLIC or digest(read_tasks(target)) == PUBLIC[name][2]
        return "" if same else f"{target} is not the public set of that name"
    if name not in PUBLIC:
        raise InputError(f"{target} does not exist, and {name} is none of the public sets: {', '.join(PUBLIC)}")
    archive, inside, wanted = PUBLIC[name]
    address = f"{server}/{archive}"
    try:
        with urllib.request.urlopen(address, timeout=_TIMEOUT_S) as answer:
            content = answer.read()
    except urllib.error.HTTPError as error:
        kind = OutOfReach if error.code in PASSING else InputError
        raise kind(f"{address} answers {error.code}; get the set by hand and put it into {target}") from None
    except (OSError, http.client.HTTPException) as error:  # no network, no such host, a connection that broke
        raise OutOfReach(f"{address} does not answer ({error}); try again, or put the set into {target}") from None
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as place:
        part = Path(place) / name
        part.mkdir()
        try:
            with tarfile.open(fileobj=io.BytesIO(content)) as files:
                for member in files:
                    found = re.fullmatch(rf"[^/]+/{inside}/(?:.*/)?([A-Za-z0-9_.-]+\.json)", member.name)
                    if found and member.isfile():
                        (part / found[1]).write_bytes(files.extractfile(member).read())
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise OutOfReach(f"{address} sent no whole archive ({error}); try again") from None
        if not any(part.iterdir()) or digest(read_tasks(part)) != wanted:
            raise InputError(f"{address} holds other tasks than those that are known here; put the set into {target}")
        try:
            part.rename(target)
        except OSError:
            if not target.exists():  # else another command was faster
                raise
    return f"fetched {target} from {address}"
