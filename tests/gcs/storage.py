"""Buckets of objects in memory with the laws of Google Cloud Storage, and the faults that tests put into them."""

from __future__ import annotations

import base64
import hashlib
import itertools
import struct
import threading
from dataclasses import dataclass, field

import google_crc32c


class Refused(Exception):
    """A request that is answered with an error: HTTP status and message."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Blob:
    bucket: str
    name: str
    content: bytes
    generation: int
    content_type: str = "application/octet-stream"

    def hashes(self) -> dict[str, str]:
        crc = struct.pack(">I", google_crc32c.value(self.content))
        return {"md5": _base64(hashlib.md5(self.content).digest()), "crc32c": _base64(crc)}


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()


@dataclass
class Fault:
    """What happens to the next `count` requests of a `kind` whose object (or listed prefix) contains `name`.

    kind: bucket, list, stat, read, write, delete or "" for all. They wait `delay_s` (or until the fault is lifted),
    then are answered with `status`; 0 serves them, -1 breaks the connection, -2 serves them and loses the answer.
    """

    kind: str = ""
    name: str = ""
    status: int = 503
    count: float = float("inf")
    delay_s: float = 0.0
    struck: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))  # released by each request
    lifted: threading.Event = field(default_factory=threading.Event)


def page(names: list[str], query: dict[str, str], limit: int) -> tuple[list[str], list[str], str]:
    """(names, common prefixes, token of the next page or "") of a listing of the sorted `names`."""
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    start, end, after = query.get("startOffset", ""), query.get("endOffset"), query.get("pageToken", "")
    limit = min(limit, int(query.get("maxResults", 0)) or limit)
    found, prefixes = [], []
    for name in names:
        if not name.startswith(prefix) or name < start or (end and name >= end):
            continue
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        entry = name if cut < 0 else name[: cut + len(delimiter)]
        if entry <= after or entry in prefixes[-1:]:
            continue
        if len(found) + len(prefixes) == limit:
            return found, prefixes, max(found[-1:] + prefixes[-1:])
        (found if cut < 0 else prefixes).append(entry)
    return found, prefixes, ""


class Storage:
    """Buckets by name. Every write gives the object a new generation, greater than all before it."""

    def __init__(self, *buckets: str):
        self.buckets: dict[str, dict[str, Blob]] = {bucket: {} for bucket in buckets}
        self.requests: list[tuple[str, str]] = []  # (kind, object or prefix), in the order of arrival
        self._faults: list[Fault] = []
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()
        self._here = threading.local()  # of the request that this thread serves

    def inject(self, fault: Fault) -> Fault:
        self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Lift all faults; requests that wait go on."""
        faults, self._faults = self._faults, []
        for fault in faults:
            fault.lifted.set()

    def names(self, prefix: str = "", bucket: str = "bucket") -> list[str]:
        with self._lock:
            return sorted(name for name in self.buckets[bucket] if name.startswith(prefix))

    def put(self, name: str, content: bytes, bucket: str = "bucket", query: dict | None = None, kind: str = "") -> Blob:
        """Store an object when the preconditions of `query` hold."""
        with self._lock:
            self._check(self._bucket(bucket).get(name), query or {})
            blob = Blob(bucket, name, bytes(content), next(self._numbers), kind or Blob.content_type)
            self.buckets[bucket][name] = blob
            return blob

    def get(self, name: str, bucket: str = "bucket", query: dict | None = None) -> Blob:
        with self._lock:
            blob, query = self._bucket(bucket).get(name), query or {}
            if blob is None or query.get("generation", str(blob.generation)) != str(blob.generation):
                raise Refused(404, f"No such object: {bucket}/{name}")
            self._check(blob, query, read=True)
            return blob

    def delete(self, name: str, bucket: str = "bucket", query: dict | None = None) -> None:
        with self._lock:
            self.get(name, bucket, query)
            del self.buckets[bucket][name]

    def _bucket(self, name: str) -> dict[str, Blob]:
        if name not in self.buckets:
            raise Refused(404, "The specified bucket does not exist.")
        return self.buckets[name]

    @staticmethod
    def _check(blob: Blob | None, query: dict, read: bool = False) -> None:
        now = str(blob.generation if blob else 0)
        if query.get("ifGenerationMatch", now) != now:
            raise Refused(412, f"ifGenerationMatch: the generation is {now}")
        if query.get("ifGenerationNotMatch") == now:
            raise Refused(304 if read else 412, f"ifGenerationNotMatch: the generation is {now}")

    def _strike(self, kind: str, name: str) -> None:
        """Note a request and let the first fault that it falls under happen."""
        with self._lock:
            self.requests.append((kind, name))
            faults = (f for f in self._faults if f.count and f.kind in ("", kind) and f.name in name)
            fault = next(faults, None)
            if fault is None:
                return
            fault.count -= 1
        fault.struck.release()
        fault.lifted.wait(fault.delay_s)
        if fault.status == -1:
            raise ConnectionAbortedError
        if fault.status > 0:
            raise Refused(fault.status, f"{kind} of {name} fails by order")
        self._here.answer_lost = fault.status == -2

    def answer_lost(self) -> bool:
        """Whether a fault loses the answer that this thread has just made; once."""
        lost, self._here.answer_lost = getattr(self._here, "answer_lost", False), False
        return lost
