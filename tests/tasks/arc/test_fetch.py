"""Public sets from a server, held against what is known of them."""

import functools
import http.server
import io
import shutil
import tarfile
import threading

import pytest

from tests.tasks.pairs.test_pairs import write_set
from trm_jax.cli.main import main
from trm_jax.errors import InputError, OutOfReach
from trm_jax.tasks.arc import fetch as fetching
from trm_jax.tasks.arc.files import digest, read_tasks


@pytest.fixture
def server(tmp_path):
    """A server of files below tmp_path/www; its address."""
    (tmp_path / "www").mkdir()
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "www")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()


def archive(folder, inside: str) -> bytes:
    """As GitHub packs a repository in which `folder` lies at `inside`, with other files beside it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as files:
        files.add(folder, f"repository-1234/{inside}")
        note = tarfile.TarInfo("repository-1234/README.json")
        note.size = 2
        files.addfile(note, io.BytesIO(b"{}"))
    return buffer.getvalue()


def test_a_public_set_is_fetched_once_and_checked(server, tmp_path, monkeypatch, capsys):
    name, inside = "owner/sets/archive/1.tar.gz", "data/training"
    write_set(tmp_path / "source" / "deeper", 4, side=4)
    known = digest(read_tasks(tmp_path / "source"))
    monkeypatch.setattr(fetching, "PUBLIC", {"training": (name, inside, known)})
    there = tmp_path / "www" / name
    there.parent.mkdir(parents=True)
    there.write_bytes(archive(tmp_path / "source", inside))
    found = tmp_path / "arc" / "training"
    assert fetching.fetch("training", tmp_path / "arc", server).startswith(f"fetched {found} from {server}/{name}")
    assert digest(read_tasks(found)) == known and [path.name for path in found.parent.iterdir()] == ["training"]
    whole = there.read_bytes()
    there.write_bytes(b"")
    assert main(["data", "arc", "fetch", str(tmp_path / "arc")]) == 0
    said = capsys.readouterr()
    assert said.out == f"{found} is there\n" and "next: trm train arc_small" in said.err
    assert main(["data", "arc", "fetch", str(tmp_path / "arc"), "--sets", "mine"]) == 2
    assert fetching.fetch("training", tmp_path / "arc", server) == "", "it is there"
    next(found.iterdir()).unlink()
    assert "is not the public set of that name" in fetching.fetch("training", tmp_path / "arc", server)
    shutil.rmtree(found)
    for damaged in (b"", whole[:-40]):
        there.write_bytes(damaged)
        with pytest.raises(OutOfReach, match="sent no whole archive"):
            fetching.fetch("training", tmp_path / "arc", server)
    write_set(tmp_path / "other", 4, seed=1, side=4)
    there.write_bytes(archive(tmp_path / "other", inside))
    with pytest.raises(InputError, match="holds other tasks than those that are known here"):
        fetching.fetch("training", tmp_path / "arc", server)
    assert not found.exists()
    there.unlink()
    with pytest.raises(InputError, match="answers 404"):
        fetching.fetch("training", tmp_path / "arc", server)
    with pytest.raises(OutOfReach, match="does not answer"):
        fetching.fetch("training", tmp_path / "arc", "http://127.0.0.1:1")


def test_the_known_digests_are_those_of_the_public_sets(sets):
    for name, (_, _, known) in fetching.PUBLIC.items():
        assert digest(read_tasks(sets / name)) == known, name
