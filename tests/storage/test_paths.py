"""Paths in buckets do what paths of this machine do, and say what is wrong where other libraries keep quiet."""

import re
from pathlib import Path

import pytest
from google.auth import exceptions

from tests.gcs.storage import Fault
from trm_jax.errors import InputError, OutOfReach
from trm_jax.storage import bucket
from trm_jax.storage.bucket import NoAccess, out_of_reach, problem
from trm_jax.storage.paths import (
    BucketPath,
    append_line,
    as_path,
    folders_with,
    local_copy,
    replacement,
    require_access,
    write_whole,
)


@pytest.fixture(params=["machine", "bucket"])
def root(request, tmp_path, gcs):
    """An empty folder, here and there."""
    return tmp_path / "root" if request.param == "machine" else as_path("gs://bucket/root")


def test_a_text_names_a_path_of_this_machine_or_of_a_bucket():
    assert as_path("a/b") == Path("a/b") and isinstance(as_path("a/b"), Path)
    path = as_path("gs://bucket//a/b.c/")
    assert isinstance(path, BucketPath) and as_path(path) is path
    assert (str(path), f"{path}", path.bucket, path.key) == ("gs://bucket/a/b.c",) * 2 + ("bucket", "a/b.c")
    assert (path.name, path.stem, path.suffix, str(path.parent)) == ("b.c", "b", ".c", "gs://bucket/a")
    assert str(path.with_name("x") / "y") == "gs://bucket/a/x/y"
    assert path.resolve() == path.expanduser() == as_path("gs://bucket/a/b.c")
    assert as_path("gs://bucket").key == ""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the path is empty"),
        ("gs://", "gs:// names no bucket; write gs://BUCKET/..."),
        ("a/caf\udce9", r"a/caf\udce9: the name is not UTF-8; choose another, or set LC_ALL=C.UTF-8"),
        ("gs://b/\udce9", r"gs://b/\udce9: the name is not UTF-8; choose another, or set LC_ALL=C.UTF-8"),
        ("s3://b/a", "s3://b/a is neither a path of this machine nor gs://BUCKET/...; copy it to one of them"),
    ],
)
def test_a_text_that_names_no_path(text, said):
    with pytest.raises(InputError, match=f"^{re.escape(said)}$"):
        as_path(text)


def test_files_and_folders(root):
    file = root / "a" / "b.txt"
    assert not root.exists() and not file.exists() and not file.is_file() and not root.is_dir()
    with pytest.raises(FileNotFoundError):
        file.read_text()
    write_whole(file, "ü\n".encode())
    assert (file.read_text(encoding="utf-8"), file.read_bytes()) == ("ü\n", b"\xc3\xbc\n")
    assert file.exists() and file.is_file() and not file.is_dir()
    assert root.exists() and root.is_dir() and not root.is_file()
    file.write_text("more")
    for name in ("c", "d", "e", "f"):  # more than a page of a listing
        write_whole(root / name, b"")
    assert sorted(path.name for path in root.iterdir()) == ["a", "c", "d", "e", "f"]
    (root / "c").unlink()
    (root / "e").unlink()
    (root / "e").unlink(missing_ok=True)
    with pytest.raises(FileNotFoundError):
        (root / "e").unlink()
    assert sorted(path.name for path in root.iterdir()) == ["a", "d", "f"]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no /proc here")
@pytest.mark.parametrize("path", ["/proc/x", "/proc/x/file"])
def test_a_place_that_takes_no_files(path):
    said = f"cannot write {path}: No such file or directory; choose another place"
    with pytest.raises(InputError, match=f"^{said}$"):
        write_whole(Path(path), b"")
    with pytest.raises(InputError, match=f"^{said}$"), replacement(Path(path)) as file, file.open("w"):
        pass


def test_a_folder_that_a_browser_has_made(gcs):
    gcs.put("folder/", b"")
    folder = as_path("gs://bucket/folder")
    assert folder.is_dir() and not folder.is_file() and list(folder.iterdir()) == []


def test_folders_with_a_file_are_found_at_any_depth_but_not_inside_each_other(root):
    for name in ("b", "a/x/1", "a/x/0", "a-b", "b/inner"):
        write_whole(root / name / "config.json", b"{}")
    write_whole(root / "a" / "notes.txt", b"")
    found = [str(path.relative_to(root)) for path in folders_with(root, "config.json")]
    assert found == ["a/x/0", "a/x/1", "a-b", "b"]
    assert folders_with(root / "nowhere", "config.json") == []
    assert folders_with(root / "b", "config.json") == [root / "b"]


def test_a_file_is_replaced_whole_or_not_at_all(root):
    file = root / "new" / "file"
    with replacement(file) as new:
        new.write_bytes(b"one")
        assert not file.exists()
    with pytest.raises(ZeroDivisionError), replacement(file) as new:
        new.write_bytes(b"two")
        raise ZeroDivisionError
    assert file.read_bytes() == b"one"
    assert [path.name for path in (root / "new").iterdir()] == ["file"]


def test_a_file_is_read_and_written_in_parts(gcs, root, monkeypatch):
    monkeypatch.setattr(bucket, "_PART_BYTES", 1000)
    content = bytes(range(256)) * 10
    with replacement(root / "large.bin") as new:
        new.write_bytes(content)
    write_whole(root / "empty", b"")
    for path, expected in ((root / "large.bin", content), (root / "empty", b"")):
        with local_copy(path) as copy:
            assert copy.read_bytes() == expected and copy.name == path.name
    with pytest.raises(FileNotFoundError), local_copy(root / "absent") as copy:
        copy.read_bytes()


def test_lines_of_several_writers_are_all_kept(gcs, root):
    write_whole(root / "first", b"")
    file = root / "lines"
    append_line(file, "one")
    append_line(file, "two")
    assert file.read_text() == "one\ntwo\n"


def test_a_line_that_another_writer_was_quicker_to_add(gcs, monkeypatch):
    file, put = as_path("gs://bucket/lines"), bucket.put

    def late(*args, **how):
        monkeypatch.setattr(bucket, "put", put)
        append_line(file, "theirs")
        return put(*args, **how)

    monkeypatch.setattr(bucket, "put", late)
    append_line(file, "ours")
    assert file.read_text() == "theirs\nours\n"


def test_an_answer_that_is_lost_makes_nothing_twice(gcs):
    gcs.inject(Fault("write", "file", status=-2, count=1))
    generation = bucket.put(as_path("gs://bucket/file"), b"content", if_generation=0)
    assert gcs.get("file").generation == generation


def test_nothing_is_written_over_what_another_process_has_changed(gcs):
    file = as_path("gs://bucket/file")
    generation = bucket.put(file, b"one")
    gcs.put("file", b"one, changed")
    for change in (lambda: None, lambda: gcs.delete("file")):
        change()
        with pytest.raises(FileExistsError):
            bucket.put(file, b"other", if_generation=generation)
    assert gcs.names() == []


def put_file(path) -> None:
    with replacement(path) as file:
        file.write_bytes(b"x")


USES = {
    "read": lambda path: path.read_text(),
    "write": lambda path: path.write_text("x"),
    "is_file": lambda path: path.is_file(),
    "is_dir": lambda path: path.is_dir(),
    "iterdir": lambda path: list(path.iterdir()),
    "unlink": lambda path: path.unlink(missing_ok=True),
    "search": lambda path: folders_with(path, "config.json"),
    "copy": lambda path: local_copy(path).__enter__(),
    "upload": put_file,
    "access": lambda path: require_access(path, write=False),
}


@pytest.mark.parametrize("use", USES)
def test_a_bucket_that_is_not_there(gcs, use):
    said = "there is no bucket gs://absent; gcloud storage buckets create gs://absent"
    with pytest.raises(NoAccess, match=f"^{said}$"):
        USES[use](as_path("gs://absent/folder/file"))


@pytest.mark.parametrize("use", USES)
def test_a_bucket_that_does_not_let_us_in(gcs, use):
    gcs.put("file", b"")
    path = as_path("gs://bucket/file")
    for status, said in (
        (403, r"^no permission to [a-z ]+ gs://bucket/file \(403\); gcloud storage buckets add-iam-policy-b[^\n]+$"),
        (401, r"^Google does not know who asks for gs://bucket/file \(401\); gcloud auth application-default login$"),
    ):
        gcs.inject(Fault(status=status))
        with pytest.raises(NoAccess, match=said):
            USES[use](path)
        gcs.heal()


def test_who_may_read_objects_need_not_be_told_of_their_bucket(gcs):
    gcs.buckets["private"] = {}
    gcs.inject(Fault("bucket", status=403))
    path = as_path("gs://private/file")
    assert not path.is_file()
    with pytest.raises(FileNotFoundError):
        path.read_text()
    with pytest.raises(NoAccess, match="no permission to look at"):
        require_access(path, write=False)


def test_what_fails_for_a_moment_is_tried_again(gcs):
    for status in (503, -1):
        gcs.inject(Fault("write", "file", status=status, count=1))
        as_path("gs://bucket/file").write_text(str(status))
        assert gcs.get("file").content == str(status).encode()


def test_what_hangs_is_tried_again(gcs, monkeypatch):
    path = as_path("gs://bucket/file")
    path.write_text("content")
    monkeypatch.setattr(bucket._client(), "requests_timeout", 0.2)
    gcs.inject(Fault("read", status=0, delay_s=60, count=2))
    assert path.read_text() == "content"
    gcs.inject(Fault("read", status=0, delay_s=60))
    with pytest.raises(OutOfReach, match="^gs://bucket/file cannot be reached"):
        path.read_text()


def test_what_other_libraries_raise_is_explained():
    class Http(Exception):
        code = 503

    class Passing(Exception):
        def __init__(self, error):
            super().__init__("a wrapper of no meaning")
            self.__cause__ = error

    refused = OSError("Forbidden: https://storage.googleapis.com/storage/v1/b/mine/o/run%2Fa\nno")
    tensorstore = ValueError("PERMISSION_DENIED: Error writing gs://mine/run/a: no [http_response_code='403']")
    for error in (refused, tensorstore, Passing(tensorstore)):
        assert str(problem(error)).startswith("no permission to use gs://mine (403); ")
    nameless = ValueError("ABORTED: All 32 retry attempts failed: CURL error Empty reply [curl_code='52']")
    assert problem(nameless) is None and isinstance(problem(nameless, as_path("gs://mine/run")), OutOfReach)
    silent = problem(Passing(Http("gs://mine/run/a does not answer")))
    assert isinstance(silent, OutOfReach) and "gs://mine cannot be reached" in str(silent)
    away = exceptions.TransportError("metadata.google.internal does not answer")
    wrapped = exceptions.RefreshError("no token")
    wrapped.__cause__ = away
    for passing in (wrapped, exceptions.RefreshError("no token", retryable=True)):
        assert isinstance(problem(passing), OutOfReach)
    assert "Google does not know who asks" in str(problem(exceptions.RefreshError("invalid_grant")))
    for error in (ValueError("PERMISSION_DENIED: /data/b/run"), ConnectionError("a worker"), KeyError("gs://mine/a")):
        assert problem(error) is None
    for status in ("UNAVAILABLE", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAUTHENTICATED"):  # XLA's words as well
        assert problem(RuntimeError(f"{status}: a device"), as_path("gs://mine/run")) is None


def test_what_is_not_known_to_be_damaged():
    """A checkpoint that there was no permission, no answer or no room to read must not be set aside."""
    unknown = (
        PermissionError(13, "no"),
        MemoryError(),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate"),
        ValueError("PERMISSION_DENIED: Error reading local file: no [os_error_code='13']"),
        ValueError("ABORTED: Error reading gs://mine/a: Empty reply [curl_code='52']"),
    )
    assert all(map(out_of_reach, unknown))
    torn = (ValueError("DATA_LOSS: Error reading"), FileNotFoundError(2, "no"), OSError(5, "Input/output error"))
    assert not any(map(out_of_reach, torn))
