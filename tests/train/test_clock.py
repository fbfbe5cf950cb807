"""Where the time goes: each second is that of what was done, and none is lost or counted twice by a crash."""

import json
import time

import jax
import jax.numpy as jnp
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import tiny
from tests.gcs.server import Gcs
from tests.gcs.storage import Fault
from trm_jax.errors import InputError
from trm_jax.evals.runner import Evaluator
from trm_jax.storage import output
from trm_jax.storage.paths import as_path
from trm_jax.train import clock, loop
from trm_jax.train.checkpoint import Checkpoints
from trm_jax.train.clock import Clock, goodput, read_goodput, resumed, spent, to_json
from trm_jax.train.compiled import Compiled

ZERO = dict.fromkeys(clock.KINDS, 0.0)


class Time:
    """Passes when told to."""

    def __init__(self, now: float = 0.0):
        self.now = now

    def __call__(self) -> float:
        return self.now


def compile_for(seconds: float) -> None:
    """As XLA reports it when it is done."""
    jax.monitoring.record_event_duration_secs("/jax/core/compile/backend_compile_duration", seconds)


def test_seconds_are_of_what_is_done():
    now = Time(100.0)
    own = Clock(now)
    now.now += 1
    own.go_on_with("data")
    now.now += 2
    own.go_on_with("train")
    now.now += 4
    with own.doing("evaluation"):
        now.now += 8
        with own.doing("checkpoint"):
            now.now += 16
        now.now += 32
    now.now += 64
    assert own.seconds() == {
        "setup": 1.0, "data": 2.0, "train": 68.0, "evaluation": 40.0, "checkpoint": 16.0, "compile": 0.0
    }  # fmt: skip
    now.now += 1
    assert own.seconds()["train"] == 69.0


def test_after_an_error_the_time_is_again_that_of_what_was_done_before():
    now = Time()
    own = Clock(now)
    with pytest.raises(KeyError), own.doing("evaluation"):
        now.now += 1
        raise KeyError
    now.now += 2
    assert (own.seconds()["evaluation"], own.seconds()["setup"]) == (1.0, 2.0)


def test_compilation_is_taken_out_of_what_it_falls_into():
    compile_for(50.0)  # before this clock
    now = Time()
    own = Clock(now)
    now.now += 10
    compile_for(4.0)
    own.go_on_with("train")
    now.now += 10
    compile_for(1.0)
    compile_for(2.0)
    with own.doing("evaluation"):
        now.now += 10
    compile_for(99.0)  # more than there was time: two threads at once
    now.now += 1
    assert own.seconds() == {
        "setup": 6.0, "train": 7.0, "evaluation": 10.0, "compile": 8.0, "data": 0.0, "checkpoint": 0.0
    }  # fmt: skip
    now.now += 1
    assert own.seconds()["train"] == 8.0, "what was too much is not carried over"


def test_the_rate_of_a_log_line_is_over_the_time_that_trained(monkeypatch, tmp_path):
    """Here a step takes a second, an evaluation a hundred and a save ten; neither falls on a log line."""
    now = Time()

    def taking(seconds, act):
        def after(*args, **kwargs):
            now.now += seconds
            return act(*args, **kwargs)

        return after

    monkeypatch.setattr(loop, "Clock", lambda: Clock(now))
    monkeypatch.setattr(Compiled, "train_step", taking(1.0, Compiled.train_step))
    monkeypatch.setattr(Evaluator, "__call__", taking(100.0, Evaluator.__call__))
    monkeypatch.setattr(Checkpoints, "save", taking(10.0, Checkpoints.save))
    changes = {"eval.every_steps": 5, "checkpoint.every_steps": 3, "log.every_steps": 4}
    tiny.train_here(tmp_path, changes, devices=2)  # of which each step is waited for
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = [line["clock"]["steps_per_s"] for line in lines if line["kind"] == "train"]
    assert rates[1:] == [1.0, 1.0], rates  # into the first falls a compilation, of which this clock knows nothing


def test_a_real_compilation():
    began = time.monotonic()
    own = Clock()
    with own.doing("evaluation"):
        jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x).T + began)(jnp.ones((3, 3)))
    seconds = own.seconds()
    wall = time.monotonic() - began
    assert 0 < seconds["compile"] < wall and seconds["evaluation"] > 0 and seconds["train"] == 0
    assert 0.9 * wall < sum(seconds.values()) <= wall


def file_content(lives=1, updated=0.0, stopped_at=None, **seconds) -> dict:
    return json.loads(to_json({**ZERO, **seconds}, lives, updated, stopped_at))


def test_goodput_is_the_share_that_trained_of_all_but_the_time_between_lives():
    assert goodput({**ZERO, "train": 6.0, "compile": 1.0, "lost": 1.0, "down": 1e6}) == 0.75
    assert goodput(ZERO) == 0.0
    assert file_content(train=3.0, setup=1.0, down=50.0)["goodput"] == 0.75
    assert spent({**ZERO, "train": 6.0, "lost": 1.0, "down": 9.0}) == 7.0


def test_a_first_life_begins_with_nothing_and_one_without_the_file_with_its_checkpoint():
    assert resumed({}, {}, 0, 5.0) == ZERO
    assert resumed({"train": 3.0, "lost": 1.0}, {}, 4, 5.0) == {**ZERO, "train": 3.0, "lost": 1.0}


def test_what_came_after_the_checkpoint_is_lost():
    before = file_content(updated=100.0, setup=2.0, train=10.0, evaluation=3.0, lost=1.0, down=7.0)
    saved = {"setup": 2.0, "train": 6.0, "lost": 1.0, "down": 7.0}
    expected = {**ZERO, "setup": 2.0, "train": 6.0, "lost": 1.0 + 4.0 + 3.0, "down": 7.0 + 20.0}
    assert resumed(saved, before, 8, 120.0) == expected
    # No checkpoint was there yet: all is lost.
    assert resumed({}, before, 0, 120.0) == {**ZERO, "lost": 16.0, "down": 27.0}


def test_a_run_that_stopped_in_order_loses_nothing_unless_it_goes_further_back():
    before = file_content(updated=100.0, stopped_at=8, train=10.0, checkpoint=3.0)
    saved = {"train": 10.0, "checkpoint": 1.0}
    assert resumed(saved, before, 8, 110.0) == {**ZERO, "train": 10.0, "checkpoint": 3.0, "down": 10.0}
    assert resumed({"train": 5.0}, before, 4, 110.0) == {**ZERO, "train": 5.0, "lost": 8.0, "down": 10.0}


def test_a_clock_that_was_set_back_between_two_lives():
    before = file_content(updated=100.0, train=10.0, down=3.0)
    assert resumed({"train": 10.0}, before, 8, 40.0) == {**ZERO, "train": 10.0, "down": 3.0}


# A life: what happens in it, one thing after the other, and how long nothing runs after it. A save that is torn is not
# found by the next life; a kill may fall between a save and the update of the file.
SECONDS = st.integers(0, 1000).map(lambda tenths: tenths / 10)
EVENTS = st.one_of(
    st.tuples(st.sampled_from(["train", "data", "evaluation", "compile"]), SECONDS),
    st.tuples(st.sampled_from(["save", "torn save", "killed in save", "update"]), SECONDS),
)
LIVES = st.lists(st.tuples(st.lists(EVENTS, max_size=8), SECONDS, st.booleans()), min_size=1, max_size=6)


@settings(max_examples=60)
@given(LIVES)
@example([([("train", 5.0), ("save", 1.0), ("train", 7.0), ("update", 0.0)], 3.0, False)] * 3)
@example([([("train", 5.0), ("killed in save", 2.0)], 3.0, False), ([("train", 1.0)], 0.0, True)])
def test_all_kinds_add_up_to_the_time_from_the_first_start_to_the_last_update(lives):
    began = now = 1e9
    checkpoint, file, lost_before = (0, {}), {}, 0.0
    step = 0
    for number, (events, pause_s, in_order) in enumerate(lives, 1):
        passing = Time()
        own = Clock(passing)
        passing.now += 1.5  # restoring
        at = now
        step, saved = checkpoint
        earlier = resumed(saved, file, step, now + passing.now - sum(own.seconds().values()))

        def seconds(earlier=earlier, own=own):
            return {kind: value + own.seconds().get(kind, 0.0) for kind, value in earlier.items()}

        def update(stopped_at=None, number=number, seconds=seconds, at=at, passing=passing):
            return json.loads(to_json(seconds(), number, at + passing.now, stopped_at))

        assert min(earlier.values()) >= 0 and earlier["lost"] >= lost_before - 1e-6, "what was lost stays lost"
        lost_before = earlier["lost"]
        file = update()
        for what, duration in [*events, *[("save", 0.5)] * in_order]:
            if what in ("train", "data", "evaluation", "compile"):
                step += what == "train"
                with own.doing("data" if what == "compile" else what):
                    passing.now += duration
                    if what == "compile":
                        compile_for(duration)
            elif what == "update":
                file = update()
            else:
                if what != "torn save":
                    checkpoint = (step, seconds())
                with own.doing("checkpoint"):
                    passing.now += duration
                if what == "killed in save":
                    break
                file = update()
        else:
            if in_order:
                file = update(stopped_at=step)
        assert sum(file["seconds"].values()) == pytest.approx(file["updated_unix_s"] - began, abs=0.02)
        now = at + passing.now + pause_s


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[]",
        b'{"goodput": 1}',
        b'{"lives": 1, "seconds": {"train": 1}, "updated_unix_s": 5}',
        json.dumps(file_content(lives=0)).encode(),
        json.dumps(file_content(train=-1.0)).encode(),
        json.dumps(file_content(train=float("nan"))).encode(),
        json.dumps({**file_content(), "updated_unix_s": 10**400}).encode(),
        json.dumps({**file_content(), "updated_unix_s": "now"}).encode(),
        json.dumps({**file_content(), "lives": True}).encode(),
    ],
)
def test_what_is_no_count_is_named(tmp_path, content):
    (tmp_path / "goodput.json").write_bytes(content)
    with pytest.raises(InputError, match=r"goodput\.json does not say where a run's time went"):
        read_goodput(tmp_path / "goodput.json")


def test_what_was_written_is_read(tmp_path):
    file = tmp_path / "goodput.json"
    assert read_goodput(file) == {}
    content = file_content(lives=3, updated=17.5, stopped_at=12, train=1.25)
    file.write_text(json.dumps(content))
    assert read_goodput(file) == content and content["stopped_at"] == 12 and content["lives"] == 3


@pytest.mark.slow
def test_a_damaged_file_starts_the_count_anew_with_one_line(tmp_path):
    workdir, lines = tmp_path / "run", []
    tiny.train_here(workdir, stop=tiny.StopAfter(workdir, 3))
    step = tiny.steps(workdir)[-1]
    (workdir / "goodput.json").write_text('{"lives": "many"}')
    tiny.train_here(workdir, lines=lines)
    (said,) = [line for line in lines if "goodput.json" in line]
    assert said.startswith(f"note: {workdir}/goodput.json does not say where a run's time went; ")
    assert said.endswith("; the run's time is counted anew, from its checkpoint on")
    assert f"going on from step {step} of 12" in lines
    count = read_goodput(workdir / "goodput.json")
    assert count["lives"] == 1 and count["stopped_at"] == 12 and count["seconds"]["train"] > 0


@pytest.mark.slow
def test_in_a_bucket_it_is_brought_up_to_date_beside_training(monkeypatch):
    """At a line of the log, here without the minute in between; a storage that is slow holds nothing up."""
    monkeypatch.setattr(output, "EVERY_S", 0.0)
    with Gcs("bucket") as gcs:
        for name, value in gcs.environment.items():
            monkeypatch.setenv(name, value)
        gcs.inject(Fault("write", "run/goodput.json", status=0, count=1))  # when the life begins
        slow = gcs.inject(Fault("write", "run/goodput.json", status=0, count=1, delay_s=30))
        workdir = as_path("gs://bucket/run")

        class Looking(tiny.StopRequest):
            """At step 9, when lines were logged and nothing saved yet."""

            asked = 0

            def __bool__(self):
                self.asked += 1
                if self.asked == 10:
                    assert slow.struck.acquire(timeout=30)
                    assert read_goodput(workdir / "goodput.json")["seconds"]["train"] == 0, "it is still under way"
                    slow.lifted.set()
                return super().__bool__()

        stop = Looking()
        tiny.train_here(workdir, {"checkpoint.every_steps": 12, "eval.every_steps": 12}, stop=stop)
        assert stop.asked > 10 and read_goodput(workdir / "goodput.json")["stopped_at"] == 12


def test_a_run_that_is_done_lives_no_more(tmp_path):
    workdir = tmp_path / "run"
    outcome = tiny.train_here(workdir)
    before = (workdir / "goodput.json").read_bytes()
    assert json.loads(before)["lives"] == 1 and goodput(outcome.seconds) > 0
    tiny.train_here(workdir)
    assert (workdir / "goodput.json").read_bytes() == before


def test_a_run_that_was_killed_and_went_on(trm, tmp_path):
    """Killed after step 30: it goes back to step 10 or a later one, for a save waits for the one before."""
    workdir = tmp_path / "run"
    # The programs are those of test_resume.py.
    changes = {"train.steps": 48, "checkpoint.every_steps": 10, "eval.every_steps": 48, "eval.batch_size": 2}
    command = ["train", "demo", "--workdir", workdir, *tiny.arguments({**changes, "log.every_steps": 1})]
    metrics, count = workdir / "metrics.jsonl", workdir / "goodput.json"
    process = trm.start(*command)
    assert process.until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 30), process.printed()
    process.kill()
    process.wait()
    killed = read_goodput(count)
    assert killed["lives"] == 1 and killed["seconds"]["lost"] == 0 and "stopped_at" not in killed
    step = tiny.steps(workdir)[-1]
    saved = json.loads((workdir / "checkpoints" / str(step) / "meta" / "metadata").read_text())["seconds"]
    time.sleep(1.0)
    result = trm.run(*command)
    assert result.code == 0 and f"going on from step {step} of 48" in result.err, result.err
    ended = read_goodput(count)
    seconds = ended["seconds"]
    assert ended["lives"] == 2 and ended["stopped_at"] == 48
    assert seconds["lost"] > 0 and seconds["lost"] == pytest.approx(spent(killed["seconds"]) - spent(saved), abs=0.01)
    assert seconds["down"] >= 1.0 and seconds["train"] > saved["train"] and seconds["evaluation"] > 0
    first_start = killed["updated_unix_s"] - sum(killed["seconds"].values())
    assert sum(seconds.values()) == pytest.approx(ended["updated_unix_s"] - first_start, abs=0.05)
    assert f"goodput: {ended['goodput']:.0%} of " in result.out
