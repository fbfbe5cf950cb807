"""What processes tell each other and agree on, with threads in their place, each with a client of its own."""

import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax._src.lib import _jax

from tests.multihost.fleet import free_port
from trm_jax.distributed.checks import program_facts, require_same
from trm_jax.distributed.process_group import Elsewhere, ProcessGroup
from trm_jax.errors import InputError, OutOfReach


def together(count: int, work) -> list:
    """What `work(group)` returns in each of `count` members of a process group."""
    if count == 1:
        return [work(ProcessGroup())]
    address, handler = f"127.0.0.1:{free_port()}", signal.getsignal(signal.SIGTERM)
    service = _jax.get_distributed_runtime_service(address, count)

    def one(index: int):
        client, preemption = _jax.get_distributed_runtime_client(address, index), _jax.create_preemption_sync_manager()
        client.connect()
        preemption.initialize(client)
        try:
            return work(ProcessGroup(index, count, client, preemption))
        finally:
            preemption.shutdown()
            client.shutdown()  # waits for the others

    try:
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(one, range(count)))
    finally:
        service.shutdown()
        signal.signal(signal.SIGTERM, handler)  # the manager took it


@pytest.mark.parametrize("count", [1, 2, 5])
def test_values_are_gathered_in_the_order_of_the_processes(count):
    assert (
        together(count, lambda group: [group.gather([group.index, n]) for n in range(3)])
        == [[[[process, n] for process in range(count)] for n in range(3)]] * count
    )


def test_the_first_shares_what_only_it_makes_and_decides_what_its_clock_says():
    made = []

    def make():
        made.append(threading.get_ident())
        return {"steps": [1, 2]}

    def work(group):
        return (
            group.share(make),
            group.share(lambda: not group.first),
            group.share(lambda: group.first),
            group.name(2).split(" (")[0],
        )

    assert together(3, work) == [({"steps": [1, 2]}, False, True, "process 2")] * 3
    assert len(made) == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [(OutOfReach("no answer"), OutOfReach), (InputError("no"), InputError), (KeyError("x"), Elsewhere)],
)
def test_what_the_first_cannot_make_is_missed_by_all_who_then_go_on_together(error, kind):
    def make():
        raise error

    def work(group: ProcessGroup):
        with pytest.raises(type(error) if group.first else kind) as raised:
            group.share(make)
        return group.gather([group.index, str(raised.value).startswith(str(error))])

    assert together(3, work) == [[[process, True] for process in range(3)]] * 3


@settings(max_examples=8)
@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=3), st.integers(0, 9999))
def test_all_stop_at_the_same_call_whoever_is_asked_and_however_fast_each_is(count, requests, seed):
    """Each request: (process, call)."""
    last = 4000

    def work(group: ProcessGroup):
        draw = random.Random(seed + group.index)
        for call in range(last):
            wished = any(process % count == group.index and call >= when for process, when in requests)
            if group.stop_agreed("SIGTERM" if wished else ""):
                break
            if draw.random() < 0.1:
                time.sleep(draw.uniform(0, 0.002))
        return call, group.stop_agreed(), group.stop_reason

    results = together(count, work)
    assert len({str(result) for result in results}) == 1
    call, still, reason = results[0]
    if requests:
        assert min(when for _, when in requests) <= call < last - 1 and still
        assert reason.startswith("SIGTERM at process " if count > 1 else "SIGTERM")
    else:
        assert (call, still, reason) == (last - 1, False, "")


def test_asking_whether_to_stop_costs_nothing():
    def work(group: ProcessGroup):
        began = time.perf_counter()
        for _ in range(1000):
            group.stop_agreed()
        return time.perf_counter() - began

    assert max(together(2, work)) < 0.1


def test_one_that_leaves_is_heard_by_those_who_wait_for_it():
    def work(group: ProcessGroup):
        if group.index == 1:
            return group.leave(2, "no such data set")
        with pytest.raises(Elsewhere):
            group.gather("data")
        told = group.ended()
        group.leave(*told)
        return told

    assert together(3, work) == [(2, "no such data set"), None, (2, "no such data set")]


def test_who_differs_is_named():
    def work(group):
        facts = {"jax": "0.10.2", "commit": "abc" if group.index != 2 else "def"}
        with pytest.raises(InputError) as refused:
            require_same(group, facts, "install one commit")
        return str(refused.value)

    lines = set(together(4, work))
    assert len(lines) == 1
    line = lines.pop()
    assert "differ in commit: def at process 2" in line and "abc at process 0" in line and "install one" in line


def test_sources_and_versions_are_compared(monkeypatch):
    monkeypatch.setenv("TRM_COMMIT", "abc")
    facts = program_facts()
    assert facts["TRM_COMMIT"] == "abc" and facts["jax"] != "none" and len(facts["sources"]) == 12
