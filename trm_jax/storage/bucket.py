"""Paths of objects in Google Cloud Storage: plain requests, and one line for each thing that can be wrong with them.

gcsfs makes the requests: it finds the credentials and tries again what fails for a moment. Its files and folders are
not used. They take a missing bucket for an empty folder and a refused permission for a missing file, make buckets, and
remember listings that another process has changed since.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path, PurePosixPath

from trm_jax.errors import InputError, OutOfReach, causes, tensorstore_code

SCHEME = "gs://"
_PATIENCE_S, _ATTEMPTS = 60.0, 3  # a request that takes longer has failed
_CONTENT_TYPE = "application/octet-stream"
_PART_BYTES = 16 * 2**20  # what is read or sent in one request at most

_CLIENTS = ("gcsfs.", "aiohttp.", "google.auth.")  # whose errors are always about a bucket
_SILENT = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED")
PASSING = (408, 429, *range(500, 600))  # of HTTP: the same request may be answered the next time


class NoAccess(InputError):
    """The bucket is not there or does not let us in."""


class BucketPath(PurePosixPath):
    """gs://BUCKET/KEY, with the methods of pathlib.Path that this package uses.

    A file is an object, and appears or changes in one step. A folder is what objects lie below; it cannot be made or
    be empty. Nothing is remembered: each method asks the storage. All raise NoAccess for a bucket that is not there
    or does not let us in, and OutOfReach when the storage does not answer.
    """

    def __str__(self) -> str:
        if self.parts[:1] != ("gs:",):  # relative to another
            return "/".join(self.parts) or "."
        return SCHEME + "/".join(self.parts[1:])

    def __fspath__(self) -> str:
        return str(self)

    @property
    def bucket(self) -> str:
        return self.parts[1]

    @property
    def key(self) -> str:
        """The name of the object; empty for the bucket itself."""
        return "/".join(self.parts[2:])

    def resolve(self) -> BucketPath:
        return self

    expanduser = resolve

    def is_file(self) -> bool:
        return bool(self.key) and look(self) is not None

    def is_dir(self) -> bool:
        # One object that was made to show an empty folder is enough.
        return bool({"items", "prefixes"} & _page(self, maxResults=1).keys()) or not self.key

    def exists(self) -> bool:
        return self.is_file() or self.is_dir()

    def iterdir(self) -> Iterator[BucketPath]:
        folders, files = children(self)
        yield from (self / name for name in sorted({*folders, *files}))

    def read_bytes(self) -> bytes:
        return get(self)[0]

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return self.read_bytes().decode(encoding, errors)

    def write_bytes(self, content: bytes) -> None:
        put(self, content)

    def write_text(self, text: str, encoding: str = "utf-8") -> None:
        self.write_bytes(text.encode(encoding))

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing to do."""

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            _ask("delete from", self, "DELETE")
        except FileNotFoundError:
            if not missing_ok:
                raise


def _kind(error: BaseException) -> str:
    """ "unknown": who asks is not known; "refused": may not; "silent": no answer; "" for any other error."""
    module, text = type(error).__module__, str(error)
    if module == "google.auth.exceptions":
        # A metadata server that is away comes wrapped, as if the credentials were bad.
        passing = any(
            type(cause).__name__ == "TransportError" or getattr(cause, "retryable", False) for cause in causes(error)
        )
        return "silent" if passing else "unknown"
    code = str(getattr(error, "code", None) or tensorstore_code(error, "http_response_code"))
    # TensorStore's; others, such as XLA, use the same words of their own troubles.
    status = text.partition(":")[0] if type(error) is ValueError and "gs://" in text else ""
    if code == "401" or status == "UNAUTHENTICATED":
        return "unknown"
    if code == "403" or status == "PERMISSION_DENIED" or (isinstance(error, OSError) and text.startswith("Forbidden")):
        return "refused"
    no_reply = isinstance(error, OutOfReach | ConnectionError | TimeoutError) or tensorstore_code(error, "curl_code")
    passing = status in _SILENT or (code.isdigit() and int(code) in PASSING)
    return "silent" if no_reply or passing or module.startswith(("aiohttp.", "requests.")) else ""


def out_of_reach(error: BaseException) -> bool:
    """Whether the storage did not answer or did not let us in, or there was no room: nothing is known of the data."""
    denied = (errno.EACCES, errno.EPERM)
    return any(
        _kind(cause)
        or isinstance(cause, PermissionError | MemoryError)
        or tensorstore_code(cause, "os_error_code") in denied
        or str(cause).startswith(_SILENT)
        for cause in causes(error)
    )


def problem(error: BaseException, place: Path | BucketPath | None = None) -> NoAccess | OutOfReach | None:
    """What to tell a person of an error that a library met in a bucket; None when it is about something else.

    place: where the library was at work, for errors that name no bucket; None when that is not known.
    """
    where = str(place) if str(place).startswith("gs://") else ""
    for cause in causes(error):
        if isinstance(cause, OutOfReach | NoAccess):
            return cause
        named = re.search(r"(?:gs://|/storage/v1/b/)([a-z0-9][\w.-]+)", str(cause))
        if (named or where or type(cause).__module__.startswith(_CLIENTS)) and (kind := _kind(cause)):
            return _told(kind, f"gs://{named[1]}" if named else where or "gs://BUCKET", "use", cause)
    return None


def _told(kind: str, place: str, doing: str, error: BaseException) -> NoAccess | OutOfReach:
    bucket = place.split("/")[2]
    if kind == "unknown":
        return NoAccess(f"Google does not know who asks for {place} (401); gcloud auth application-default login")
    if kind == "refused":
        return NoAccess(
            f"no permission to {doing} {place} (403); gcloud storage buckets add-iam-policy-binding gs://{bucket} "
            "--member=ACCOUNT --role=ROLE, for the roles roles/storage.objectUser and roles/storage.legacyBucketReader"
        )
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    return OutOfReach(f"{place} cannot be reached ({reason}); give the same command again once the storage answers")


@cache
def _client():
    from gcsfs.core import GCSFileSystem  # not its wrapper, which asks for the kind of every bucket first

    return GCSFileSystem(requests_timeout=_PATIENCE_S, use_listings_cache=False)


def _request(method: str, url: str, *names: str, **how):
    """gcsfs' own, which tries again what fails for a moment, but not what hangs."""
    for _ in range(_ATTEMPTS - 1):
        with suppress(TimeoutError):
            return _client().call(method, url, *names, **how)
    return _client().call(method, url, *names, **how)


@contextmanager
def _telling(doing: str, place: BucketPath) -> Iterator[None]:
    """For requests about an object or its bucket. Raises FileNotFoundError, FileExistsError when a precondition does
    not hold, NoAccess and OutOfReach."""
    try:
        yield
    except FileNotFoundError:
        if not _is_there(place.bucket):
            name = f"gs://{place.bucket}"
            raise NoAccess(f"there is no bucket {name}; gcloud storage buckets create {name}") from None
        raise FileNotFoundError(2, "No such object", str(place)) from None
    except FileExistsError:
        raise FileExistsError(17, "The object is another one by now", str(place)) from None
    except Exception as error:  # noqa: BLE001 - whatever it is, it is told or raised
        if kind := next(filter(None, map(_kind, causes(error))), ""):
            raise _told(kind, str(place), doing, error) from None
        raise


def _ask(doing: str, place: BucketPath, method: str, url: str = "b/{}/o/{}", **how):
    """Make a request: the names of the bucket and of the object are filled into `url`. Raises as `_telling` does."""
    with _telling(doing, place):
        return _request(method, url, *(place.bucket, place.key)[: url.count("{}")], **how)


@cache
def _is_there(bucket: str) -> bool:
    """Whether there is such a bucket, as far as we may know: who may use its objects need not be told of it."""
    try:
        _request("GET", "b/{}", bucket)
    except Exception as error:  # noqa: BLE001 - the one about the object is raised
        return not isinstance(error, FileNotFoundError)
    return True


def require_bucket(place: BucketPath) -> None:
    """Raise NoAccess unless the bucket of `place` is there and we may look at it."""
    _ask("look at", place, "GET", "b/{}")


def look(place: BucketPath) -> dict | None:
    """What the storage knows of an object (`size`, `generation`, ... as texts); None when there is none."""
    try:
        return _ask("look at", place, "GET", json_out=True)
    except FileNotFoundError:
        return None


def get(place: BucketPath) -> tuple[bytes, int]:
    """(content, generation) of an object. Raises FileNotFoundError."""
    headers, content = _ask("read", place, "GET", alt="media")
    return content, int(headers["X-Goog-Generation"])


def get_parts(place: BucketPath) -> Iterator[bytes]:
    """The content of an object that may be large. Raises FileNotFoundError."""
    found = _ask("look at", place, "GET", json_out=True)
    for start in range(0, int(found["size"]), _PART_BYTES):
        ranged = {"Range": f"bytes={start}-{start + _PART_BYTES - 1}"}
        yield _ask("read", place, "GET", alt="media", generation=found["generation"], headers=ranged)[1]


def put(place: BucketPath, content: bytes, if_generation: int | None = None) -> int:
    """Make an object, in one step, and give its generation.

    if_generation: only if that is the object's generation now (0: there is none), else FileExistsError.
    """
    from gcsfs.core import UnclosableBytesIO  # which gcsfs rewinds to try again

    client = _client()
    url = client.base.replace("/storage/v1/", "/upload/storage/v1/") + "b/{}/o"
    condition = {} if if_generation is None else {"ifGenerationMatch": str(if_generation)}
    how = {"headers": {"Content-Type": _CONTENT_TYPE}, "data": UnclosableBytesIO(content), "json_out": True}
    try:
        made = _ask("write to", place, "POST", url, name=place.key, uploadType="media", **how, **condition)
    except FileExistsError:
        made = look(place) or {}
        md5 = base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()
        if made.get("md5Hash") != md5:  # else a reply was lost on the way, and the second attempt has met the first
            raise
    return int(made["generation"])


def upload(file: Path, place: BucketPath) -> None:
    """Make an object of a file of this machine, in one step."""
    with _telling("write to", place):
        _client().put_file(str(file), str(place), chunksize=_PART_BYTES)


def _page(folder: BucketPath, **how) -> dict:
    prefix = f"{folder.key}/" if folder.key else ""
    return _ask("list", folder, "GET", "b/{}/o", json_out=True, prefix=prefix, delimiter="/", **how)


def children(folder: BucketPath) -> tuple[list[str], list[str]]:
    """(folders, files): the names of what lies in a folder."""
    folders, files, page = [], [], {"nextPageToken": None}
    while "nextPageToken" in page:
        page = _page(folder, pageToken=page["nextPageToken"])
        folders += [name.rstrip("/").rpartition("/")[2] for name in page.get("prefixes", ())]
        files += [item["name"].rpartition("/")[2] for item in page.get("items", ())]
    return folders, [name for name in files if name]  # an object named as the folder itself has no name in it
