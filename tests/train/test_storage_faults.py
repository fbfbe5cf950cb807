"""Full disks and folders that may not be written: one line, exit code 2, and nothing lost."""

import os
from pathlib import Path

import pytest

from tests import faults, tiny


@pytest.fixture(scope="module")
def reference(trm, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("reference") / "run"
    assert trm.run(*command(workdir)).code == 0
    return workdir


def command(workdir: Path) -> list[str]:
    return ["train", "demo", "--workdir", str(workdir), *tiny.arguments({"checkpoint.keep_last": 3})]


def assert_one_line(result, *words: str) -> None:
    """Exit code 2 and one error line that has these words; no traceback of any thread."""
    assert result.code == 2, result.err
    assert "Traceback" not in result.err, result.err
    (line,) = result.error_lines
    for word in words:
        assert word in line, line


def test_a_disk_that_fills_up_while_training(trm, reference, tmp_path):
    """Room for about two checkpoints of some 300 kB; given more, the run goes on."""
    checkpoint = sum(f.stat().st_size for f in (reference / "checkpoints" / "12").rglob("*"))
    with faults.small_disk(tmp_path / "disk", 2 * checkpoint // 1024 + 150) as disk:
        workdir = disk / "run"
        result = trm.run(*command(workdir))
        assert_one_line(result, "the disk is full; free some space")
        kept = tiny.steps(workdir)
        assert kept and max(kept) < 12
        assert trm.run("eval", workdir).code in (0, 2)  # 2: no room for the line that eval adds
        for step in kept:
            tiny.state(workdir, step)  # whole
        faults.remount(disk, "size=100m")
        result = trm.run(*command(workdir))
        assert result.code == 0, result.err
        assert f"going on from step {kept[-1]} of 12" in result.err
        tiny.assert_same_end(reference, workdir)


@pytest.mark.parametrize("kilobytes", [4, 12, 40])
def test_a_disk_that_is_full_from_the_start(trm, tmp_path, kilobytes):
    with faults.small_disk(tmp_path / "disk", kilobytes) as disk:
        if kilobytes == 4:
            (disk / "filler").write_bytes(b"x" * 4096)
        result = trm.run(*command(disk / "run"))
        assert result.code == 2, result.err
        assert len(result.error_lines) == 1 and "the disk is full" in result.err.splitlines()[-1], result.err


def test_a_limit_on_the_size_of_files(trm, tmp_path):
    """ulimit -f, as shared machines have it: also where nothing can be mounted."""
    workdir = tmp_path / "run"
    assert_one_line(trm.run(*command(workdir), max_file_bytes=20_000), "larger than the limit on file sizes")
    assert tiny.steps(workdir) == []
    assert trm.run(*command(workdir)).code == 0


@pytest.mark.slow
def test_a_disk_that_may_only_be_read(trm, reference, tmp_path):
    with faults.small_disk(tmp_path / "disk", 40_000) as disk:
        assert trm.run(*command(disk / "run")).code == 0
        faults.remount(disk, "ro")
        assert_one_line(trm.run(*command(disk / "new")), str(disk / "new"), "read-only")
        assert_one_line(trm.run(*command(disk / "run")), "read-only")
        assert_one_line(trm.run("eval", disk / "run"), "read-only")
        faults.remount(disk, "rw")
        tiny.assert_same_end(reference, disk / "run")


@pytest.mark.skipif(os.getuid() != 0, reason="becoming somebody else needs root")
def test_a_folder_of_somebody_else(trm, reference, tmp_path):
    for folder in (tmp_path, *tmp_path.parents):  # pytest's folders are closed to others
        if folder.stat().st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o055)
    nobody = 65534
    assert_one_line(trm.run(*command(tmp_path / "new"), uid=nobody), str(tmp_path / "new"), "no permission")
    mine = tmp_path / "mine"
    mine.mkdir()
    assert_one_line(trm.run(*command(mine), uid=nobody), str(mine), "no permission")


def test_a_file_where_the_folder_should_be(trm, tmp_path):
    (tmp_path / "run").write_text("")
    assert_one_line(trm.run(*command(tmp_path / "run")), f"{tmp_path}/run is a file; --workdir wants a folder")
    assert_one_line(trm.run(*command(tmp_path / "run" / "in")), f"{tmp_path}/run")
