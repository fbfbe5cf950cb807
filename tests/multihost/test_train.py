"""Eight processes, four, two and one: the same run, stopped, killed and gone on with."""

import json
import signal
from functools import cache

import pytest

from tests import tiny
from tests.faults import largest_file, truncate
from tests.multihost.fleet import Fleet, all_gone


@pytest.fixture(scope="module")
def finished(hosts, tmp_path_factory):
    """The folder of a run that so many processes trained, undisturbed."""

    @cache
    def run(count: int):
        workdir = tmp_path_factory.mktemp("undisturbed") / str(count)
        hosts.must_finish(count, workdir)
        return workdir

    return run


def assert_near(one, other):
    """Two runs that differ by rounding; lr stays below 12e-6, so that it grows little, and the figures are means."""
    for ours, theirs in zip(tiny.records(one), tiny.records(other), strict=True):
        near = {k: pytest.approx(v, rel=1e-4, abs=1e-4) if isinstance(v, float) else v for k, v in ours.items()}
        assert theirs == near
    tiny.assert_moved_alike(one, other, 4, 12)


@pytest.mark.parametrize("count", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_several_processes_do_what_one_does(finished, count):
    assert_near(finished(1), finished(count))
    facts = json.loads((finished(count) / "run.json").read_text())
    assert (facts["processes"], facts["devices"]) == (count, count)
    # 13 puzzles in batches of 8: the last one is uneven.
    assert [r["count"] for r in tiny.records(finished(count), "eval")] == [13, 13]


@pytest.mark.slow
@pytest.mark.parametrize(("count", "fewer"), [(2, 1), (8, 4)])
def test_a_signal_to_one_stops_all_at_the_same_step_and_half_as_many_go_on(finished, hosts, tmp_path, count, fewer):
    fleet, asked = hosts.start(count, tmp_path / "run"), count // 2
    fleet.until_step(tmp_path / "run", 5)
    fleet[asked].signal(signal.SIGTERM)
    results = fleet.wait()
    assert [result.code for result in results] == [75] * count, [r.err for r in results]
    step = tiny.steps(tmp_path / "run")[-1]
    assert 5 <= step < 12
    assert f"stopped by SIGTERM at process {asked} (" in results[0].out and f"saved at step {step}" in results[0].out
    hosts.must_finish(fewer, tmp_path / "run")
    assert_near(finished(count), tmp_path / "run")


@pytest.mark.slow
def test_a_signal_in_an_evaluation_stops_all(hosts, tmp_path):
    long = {"data.extra_clues": 4, "data.test_puzzles": 1500}
    fleet = hosts.start(2, tmp_path / "run", long)
    fleet.until_step(tmp_path / "run", 6)
    fleet[1].signal(signal.SIGTERM)
    results = fleet.wait()
    assert [result.code for result in results] == [75] * 2, [r.err for r in results]
    assert tiny.steps(tmp_path / "run")[-1] == 6
    assert not tiny.records(tmp_path / "run", "eval")


@pytest.mark.parametrize(
    ("count", "victim"),
    [(2, 0), *(pytest.param(*one, marks=pytest.mark.slow) for one in ((2, 1), (4, 2), (8, 0), (8, 6)))],
)
def test_when_one_is_killed_the_others_end_and_the_run_goes_on_exactly(finished, hosts, tmp_path, count, victim):
    fleet = hosts.start(count, tmp_path / "run")
    fleet.until_step(tmp_path / "run", 6)
    fleet[victim].kill()
    all_gone(fleet, within_s=60)
    for number, result in enumerate(fleet.wait()):
        if number != victim:
            assert result.code == 69 and "go on from the last checkpoint" in result.error_lines[-1], result.err
            named = [f"process {victim} (", "leader task" if victim == 0 else f"\n{victim}\n"]  # by us or by JAX
            assert any(name in result.err for name in named), result.err
    hosts.must_finish(count, tmp_path / "run")
    tiny.assert_same_end(finished(count), tmp_path / "run")
    goodput = json.loads((tmp_path / "run" / "goodput.json").read_text())
    assert goodput["lives"] == 2 and goodput["seconds"]["lost"] > 0


@pytest.mark.slow
def test_a_damaged_checkpoint_is_noticed_by_all(hosts, tmp_path):
    hosts.must_finish(2, tmp_path / "run")
    newest = tmp_path / "run" / "checkpoints" / str(tiny.steps(tmp_path / "run")[-1])
    truncate(largest_file(newest))
    results = hosts.run(2, tmp_path / "run")
    assert [result.code for result in results] == [0] * 2, [r.err for r in results]
    assert f"{newest} is damaged" in results[0].err
    assert not any("damaged" in result.err for result in results[1:])  # said once
    assert tiny.steps(tmp_path / "run")[-1] == 12


@pytest.mark.slow
def test_one_that_stands_still_is_lost_to_the_others(hosts, tmp_path):
    fleet = hosts.start(3, tmp_path / "run", {"train.batch_size": 9, "eval.batch_size": 9})
    fleet.until_step(tmp_path / "run", 5)
    fleet[2].signal(signal.SIGSTOP)
    others = Fleet(fleet.processes[:2])
    assert all_gone(others, within_s=60) < 60
    fleet[2].kill()
    for result in others.wait():
        assert result.code == 69 and "\n2\n" in result.err, result.err
