"""Google Cloud Storage in memory: the part of its JSON API that Orbax (tensorstore, gcsfs) and Google's client speak.

Generations and their preconditions hold under concurrency, as they do there: commits stand on them. What is not known
is refused with 400, so that no client believes in a condition that was not checked.
"""

from __future__ import annotations

import json
import re
import threading
import urllib.parse
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.gcs.storage import Blob, Refused, Storage, page

CHUNK_BYTES = 256 * 1024  # every chunk of a resumable upload but the last is a multiple of it
PARAMETERS = {
    *("ifGenerationMatch", "ifGenerationNotMatch", "generation", "sourceGeneration", "ifSourceGenerationMatch"),
    *("alt", "name", "uploadType", "upload_id", "prefix", "delimiter", "startOffset", "endOffset", "maxResults"),
    "pageToken",
    # These change no answer here: nothing is versioned, a rewrite is done at once, and who asks does not matter.
    *("versions", "rewriteToken", "projection", "fields", "prettyPrint", "userProject"),
    "tensorstore",  # a number that keeps its reads from caches on the way
}


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def _json(content: dict, status: int = 200) -> Reply:
    return Reply(status, json.dumps(content).encode(), {"Content-Type": "application/json; charset=UTF-8"})


class Gcs(Storage):
    """The buckets and what is asked of them. A context manager: serves on a port of its own while it is open."""

    def __init__(self, *buckets: str, page_size: int = 1000):
        super().__init__(*buckets)
        self.page_size = page_size
        self._uploads: dict[str, tuple[str, dict, str, bytearray]] = {}  # bucket, query, content type, what has come

    def __enter__(self) -> Gcs:
        handler = type("Handler", (_Handler,), {"gcs": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.heal()
        self._server.shutdown()
        self._server.server_close()

    @property
    def environment(self) -> dict[str, str]:
        """What makes the clients of a process that starts with it speak to this server, and to nobody else."""
        return {
            "STORAGE_EMULATOR_HOST": self.url,
            "TENSORSTORE_GCS_HTTP_URL": self.url,
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "x",
            "NO_GCE_CHECK": "true",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # else gcsfs asks Google's control plane for a minute
        }

    def _resource(self, blob: Blob) -> dict:
        place = f"b/{blob.bucket}/o/{urllib.parse.quote(blob.name, safe='')}"
        hashes = blob.hashes()
        return {
            "kind": "storage#object",
            **{"id": f"{blob.bucket}/{blob.name}/{blob.generation}", "name": blob.name, "bucket": blob.bucket},
            **{"generation": str(blob.generation), "metageneration": "1", "size": str(len(blob.content))},
            **{"contentType": blob.content_type, "storageClass": "STANDARD", "etag": str(blob.generation)},
            **{"md5Hash": hashes["md5"], "crc32c": hashes["crc32c"]},
            **{"timeCreated": "2026-01-01T00:00:00.000Z", "updated": "2026-01-01T00:00:00.000Z"},
            "mediaLink": f"{self.url}/download/storage/v1/{place}?generation={blob.generation}&alt=media",
        }

    def answer(self, method: str, target: str, headers, body: bytes) -> Reply:
        """The reply to one request. Raises ConnectionAbortedError when there is to be none."""
        raw_path, _, raw_query = target.partition("?")
        query = dict(urllib.parse.parse_qsl(raw_query, keep_blank_values=True))
        try:
            if raw_path == "/batch/storage/v1":
                return self._batch(headers, body)
            unknown = query.keys() - PARAMETERS
            match = re.fullmatch(r"(?:/(?:upload|download))?/storage/v1/b/([^/]+)(/o)?(?:/([^/]+)(.*))?", raw_path)
            if unknown or not match:
                raise Refused(400, f"not served here: {method} {raw_path} {' '.join(sorted(unknown))}")
            bucket, objects, name, action = (urllib.parse.unquote(group or "") for group in match.groups())
            if raw_path.startswith("/upload"):
                return self._upload(bucket, query, headers, body)
            if method == "POST" and action:
                return self._act(bucket, name, match[4], query)
            if method == "DELETE" and name:
                self._strike("delete", name)
                self.delete(name, bucket, query)
                return Reply(204)
            if method == "GET" and name:
                media = query.get("alt") == "media"
                self._strike("read" if media else "stat", name)
                blob = self.get(name, bucket, query)
                return self._media(blob, headers.get("Range", "")) if media else _json(self._resource(blob))
            if method == "GET" and objects:
                return self._list(bucket, query)
            if method == "GET":
                self._strike("bucket", bucket)
                self._bucket(bucket)
                return _json({"kind": "storage#bucket", "id": bucket, "name": bucket, "location": "US"})
            raise Refused(400, f"not served here: {method} {raw_path}")
        except Refused as error:
            return _json({"error": {"code": error.status, "message": str(error)}}, error.status)

    def _list(self, bucket: str, query: dict) -> Reply:
        self._strike("list", query.get("prefix", ""))
        with self._lock:
            names, prefixes, token = page(sorted(self._bucket(bucket)), query, self.page_size)
            items = [self._resource(self.buckets[bucket][name]) for name in names]
        found = {"items": items, "prefixes": prefixes, "nextPageToken": token}
        return _json({"kind": "storage#objects", **{key: value for key, value in found.items() if value}})

    @staticmethod
    def _media(blob: Blob, wanted: str) -> Reply:
        size = len(blob.content)
        headers = {
            "Content-Type": blob.content_type,
            "ETag": str(blob.generation),
            "X-Goog-Generation": str(blob.generation),
            "X-Goog-Hash": ",".join(f"{name}={value}" for name, value in blob.hashes().items()),
            "X-Goog-Stored-Content-Length": str(size),
        }
        ends = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
        if not ends or not any(ends.groups()):
            return Reply(200, blob.content, headers)
        first = int(ends[1]) if ends[1] else max(0, size - int(ends[2]))
        last = min(size - 1, int(ends[2])) if ends[1] and ends[2] else size - 1
        if first > last:
            raise Refused(416, f"The requested range cannot be satisfied: {wanted} of {size} bytes")
        headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        return Reply(206, blob.content[first : last + 1], headers)

    def _upload(self, bucket: str, query: dict, headers, body: bytes) -> Reply:
        if "upload_id" in query:
            return self._resume(query["upload_id"], headers, body)
        way, described, kind = query.get("uploadType"), {}, headers.get("Content-Type", "")
        if way == "multipart":
            described, kind, body = _related(kind, body)
        elif way == "resumable":
            described, kind = json.loads(body or b"{}"), headers.get("X-Upload-Content-Type", "")
        query["name"] = query.get("name") or described["name"]
        self._strike("write", query["name"])
        if way != "resumable":
            return _json(self._resource(self.put(query["name"], body, bucket, query, kind)))
        with self._lock:
            self._check(self._bucket(bucket).get(query["name"]), query)
            number = str(next(self._numbers))
            self._uploads[number] = (bucket, query, kind, bytearray())
        place = f"{self.url}/upload/storage/v1/b/{bucket}/o?uploadType=resumable&upload_id={number}"
        return Reply(200, headers={"Location": place})

    def _resume(self, number: str, headers, body: bytes) -> Reply:
        if number not in self._uploads:
            raise Refused(410, "no such upload session")
        bucket, query, kind, content = self._uploads[number]
        self._strike("write", query["name"])
        first, total = re.fullmatch(
            r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", headers.get("Content-Range", f"bytes 0-0/{len(body)}")
        ).groups()
        if first is not None and int(first) != len(content):
            raise Refused(400, f"{len(content)} bytes are here, the next are from {first}")
        content += body
        if total == "*" or len(content) < int(total):
            if len(body) % CHUNK_BYTES:
                raise Refused(400, f"a chunk of {len(body)} bytes that is not the last")
            return Reply(308, headers={"Range": f"bytes=0-{len(content) - 1}"} if content else {})
        blob = self.put(query["name"], content, bucket, query, kind)
        del self._uploads[number]
        return _json(self._resource(blob))

    def _act(self, bucket: str, name: str, action: str, query: dict) -> Reply:
        """Rewrite, copy or move an object."""
        match = re.fullmatch(r"/(rewriteTo|copyTo|moveTo)(?:/b/([^/]+))?/o/([^/]+)", action)
        if not match:
            raise Refused(400, f"not served here: {action}")
        verb, to_bucket, to_name = (urllib.parse.unquote(group or bucket) for group in match.groups())
        self._strike("write", to_name)
        pairs = {"sourceGeneration": "generation", "ifSourceGenerationMatch": "ifGenerationMatch"}
        source_query = {pairs[key]: value for key, value in query.items() if key in pairs}
        with self._lock:
            source = self.get(name, bucket, source_query)
            blob = self.put(to_name, source.content, to_bucket, query, source.content_type)
            if verb == "moveTo":
                self.delete(name, bucket)
        if verb != "rewriteTo":
            return _json(self._resource(blob))
        size = str(len(blob.content))
        return _json({"done": True, "totalBytesRewritten": size, "objectSize": size, "resource": self._resource(blob)})

    def _batch(self, headers, body: bytes) -> Reply:
        boundary = _boundary(headers["Content-Type"])
        replies = []
        for part in body.split(b"--" + boundary)[1:-1]:
            # With the server's address (Google's client) or without it (gcsfs).
            method, target = re.search(rb"\n([A-Z]+) (?:http://[^/]+)?(\S+) HTTP/1\.1\r?\n", part).groups()
            reply = self.answer(method.decode(), target.decode(), {}, b"")
            head = f"--batch\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {reply.status} -\r\n"
            lines = "".join(f"{key}: {value}\r\n" for key, value in reply.headers.items())
            replies.append(f"{head}{lines}\r\n".encode() + reply.body + b"\r\n")
        return Reply(200, b"".join(replies) + b"--batch--", {"Content-Type": "multipart/mixed; boundary=batch"})


def _boundary(content_type: str) -> bytes:
    return re.search(r'boundary="?([^";]+)', content_type)[1].encode()


def _related(content_type: str, body: bytes) -> tuple[dict, str, bytes]:
    """(description, content type, content) of a multipart/related upload; its lines end in CRLF or LF throughout."""
    mark = b"--" + _boundary(content_type)
    newline = b"\r\n" if body.startswith(mark + b"\r\n") else b"\n"
    described, _, rest = body.removeprefix(mark + newline).partition(newline + mark + newline)
    head, _, content = rest.partition(newline * 2)
    kind = re.search(rb"(?i)content-type: *([^\r\n]+)", head)
    return json.loads(described.partition(newline * 2)[2]), kind[1].decode(), content.rpartition(newline + mark)[0]


class _Handler(BaseHTTPRequestHandler):
    gcs: Gcs
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # a reply leaves in one piece

    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            reply = self.gcs.answer(self.command, self.path, self.headers, body)
        except ConnectionAbortedError:
            reply = None
        if self.gcs.answer_lost() or reply is None:
            self.close_connection = True
            return
        content = b"" if reply.status in (204, 304) else reply.body
        self.send_response(reply.status)
        for name, value in {**reply.headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = serve  # noqa: N815 - the names that http.server calls

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True  # the client has gone: it was killed

    def log_message(self, *_) -> None:
        """Silent: `Gcs.requests` is the log."""
