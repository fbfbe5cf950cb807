"""What processes tell each other and agree on, with threads in their place."""

import os
import random
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.multihost.fleet import free_port
from trm_jax.distributed.meeting import OthersMissing, meet
from trm_jax.distributed.multihost import require_same
from trm_jax.distributed.team import Elsewhere, Team
from trm_jax.errors import InputError, OutOfReach


def together(count: int, work) -> list:
    """What `work(team)` returns in each of `count` members of a team."""
    port = free_port()

    def one(index: int):
        team = meet(f"127.0.0.1:{port}", index, count, timeout_s=20)
        try:
            return work(team)
        finally:
            team.gather("the end") if count > 1 else None
            team.leave()

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_values_are_gathered_in_the_order_of_the_processes(count):
    assert (
        together(count, lambda team: [team.gather([team.index, n]) for n in range(3)])
        == [[[[process, n] for process in range(count)] for n in range(3)]] * count
    )


def test_the_first_shares_what_only_it_makes():
    made = []

    def make():
        made.append(threading.get_ident())
        return {"steps": [1, 2]}

    assert together(3, lambda team: team.share(make)) == [{"steps": [1, 2]}] * 3
    assert len(made) == 1


@pytest.mark.parametrize(
    ("error", "kind"),
    [(OutOfReach("no answer"), OutOfReach), (InputError("no"), InputError), (KeyError("x"), Elsewhere)],
)
def test_what_the_first_cannot_make_is_missed_by_all_who_then_go_on_together(error, kind):
    def make():
        raise error

    def work(team: Team):
        with pytest.raises(type(error) if team.first else kind) as raised:
            team.share(make)
        return team.gather([team.index, str(raised.value).startswith(str(error))])

    assert together(3, work) == [[[process, True] for process in range(3)]] * 3


@settings(max_examples=10)
@given(st.integers(1, 4), st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=4), st.integers(0, 9999))
def test_all_stop_and_save_at_the_same_tick_whoever_asks_and_however_fast_each_is(count, asks, seed):
    """Each ask (process, tick) is for a stop or, every other one, for a save."""

    def work(team: Team):
        draw, seen = random.Random(seed + team.index), []
        for tick in range(400):
            for number, (process, when) in enumerate(asks):
                if process % count == team.index and when == tick:
                    team.ask("save" if number % 2 else "stop", f"ask {number}")
            events = team.tick()
            seen += [(tick, event) for event in sorted(events)]
            if "stop" in events:
                break
            if draw.random() < 0.1:
                time.sleep(draw.uniform(0, 0.002))
        return seen, tick, team.reason("stop")

    results = together(count, work)
    assert len({str(result) for result in results}) == 1
    seen, tick, reason = results[0]
    stops = [when for number, (_, when) in enumerate(asks) if number % 2 == 0]
    if stops:
        assert seen[-1] == (tick, "stop") and reason.startswith("ask ")
        assert tick >= min(stops)  # not before it was asked for
        assert tick < 400  # and soon
    else:
        assert tick == 399


def test_what_the_fast_ask_for_again_does_not_take_the_first_from_the_slow():
    """Process 0 is far ahead when it asks a second time; process 1 still has both to come."""
    slow = threading.Event()

    def work(team: Team):
        seen = []
        if not team.first:
            assert slow.wait(20)
        for tick in range(60):
            if team.first and tick in (5, 20):
                team.ask("save", f"ask {tick}")
            if team.tick():
                seen.append(tick)
            if tick == 30:
                slow.set()
        return seen

    first, second = together(2, work)
    assert first == second and len(first) == 2


def test_alone_a_wish_is_granted_at_once():
    team = Team()
    assert team.tick() == set()
    team.ask("save")
    assert team.tick() == {"save"}
    assert team.tick() == set()
    team.ask("save")
    team.ask("stop", "SIGTERM")
    assert team.tick() | team.tick() == {"save", "stop"}
    assert team.tick() == {"stop"} and team.reason("stop") == "SIGTERM"


def test_who_differs_is_named():
    def work(team):
        facts = {"jax": "0.10.2", "commit": "abc" if team.index != 2 else "def"}
        with pytest.raises(InputError) as refused:
            require_same(team, facts, "install one commit")
        return str(refused.value)

    lines = set(together(4, work))
    assert len(lines) == 1
    line = lines.pop()
    assert "differ in commit: def at process 2" in line and "abc at process 0" in line and "install one" in line


def meeting(members: list[tuple[int, int]], timeout_s: float = 1.5) -> list[str]:
    """What members (index, count) are told that try to meet."""
    port = free_port()

    def one(member):
        try:
            meet(f"127.0.0.1:{port}", *member, timeout_s=timeout_s).leave()
        except (InputError, OthersMissing) as error:
            return f"{type(error).__name__}: {error}"
        return "met"

    with ThreadPoolExecutor(len(members)) as pool:
        return list(pool.map(one, members))


def test_those_who_do_not_come_are_named_to_all():
    for line in meeting([(0, 4), (2, 4)]):
        assert line.startswith("OthersMissing: of 4 processes, 1, 3 did not come") and "within 2 s" in line


def test_without_process_0_its_address_is_named():
    [line] = meeting([(1, 2)])
    assert "could not reach process 0 at 127.0.0.1:" in line and "refused" in line
    assert line.startswith("OthersMissing: ")


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ((1, 3), "InputError: process 1"),
        ((5, 2), "InputError: there is no place for process 5"),
        ((1, 2), "met"),
    ],
)
def test_another_idea_of_the_team_is_refused(other, said):
    for line in meeting([(0, 2), other]):
        assert said in line


def test_two_of_one_number_are_refused():
    lines = meeting([(0, 3), (1, 3), (1, 3)])
    assert all("have one number" in line for line in lines), lines


@pytest.mark.parametrize(
    "address", ["10.0.0.1", ":80", "host:", "host:0", "host:65536", "host:port", "h:²", "::1", "[::1]"]
)
def test_an_address_without_host_or_port_is_refused(address):
    with pytest.raises(InputError, match=r"HOST:PORT, .* \[::1\]:8476"):
        meet(address, 0, 2, 1.0)


def connect(port: int) -> socket.socket:
    """To process 0 that waits for others, once it does."""
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port + 1))
        except ConnectionRefusedError:
            time.sleep(0.01)


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_one_that_died_while_it_waited_may_come_again(order):
    """Also when all others have come before it: the team is not complete with the dead."""
    port = free_port()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(meet, f"127.0.0.1:{port}", 0, 3, 10.0)
        with connect(port) as dead:
            dead.sendall(b'{"index": 1, "host": "h", "pid": 1, "count": 3}\n')
            time.sleep(0.1)
        others = []
        for number in order:
            others.append(pool.submit(meet, f"127.0.0.1:{port}", number, 3, 10.0))
            time.sleep(0.2)
        teams = [first.result(), *(other.result() for other in others)]
    assert [member.pid for member in teams[0].members] == [os.getpid()] * 3
    for team in teams:
        team.leave()


def test_what_was_said_last_arrives_though_the_sender_leaves_at_once():
    """Others who send at that moment do not make it lost: a closed connection throws away what was not read."""
    for _ in range(20):
        port = free_port()
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(lambda n, p=port: meet(f"127.0.0.1:{p}", n, 2, 10.0), range(2))
            chatter = pool.submit(lambda team=second: [team.ask(f"event {n}") for n in range(200)])
            first.leave()
            chatter.result()
        second.leave()


def test_a_signal_ends_the_wait():
    port = free_port()
    with pytest.raises(OthersMissing, match="stopped before all 2 processes had come"):
        meet(f"127.0.0.1:{port}", 0, 2, 60.0, stopped=lambda: True)
    with pytest.raises(OthersMissing, match="stopped before all 2 processes had come"):
        meet(f"127.0.0.1:{port}", 1, 2, 60.0, stopped=lambda: True)


def test_over_ipv6():
    if not socket.has_dualstack_ipv6():
        pytest.skip("no IPv6 here")
    port = free_port()
    with ThreadPoolExecutor(2) as pool:
        teams = list(pool.map(lambda number: meet(f"[::1]:{port}", number, 2, 10.0), range(2)))
    for team in teams:
        team.leave()


def test_a_stranger_at_the_door_is_sent_away():
    port = free_port()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(meet, f"127.0.0.1:{port}", 0, 2, 10.0)
        with connect(port) as stranger:
            stranger.sendall(b'{"GET": "/"}\n')
        second = pool.submit(meet, f"127.0.0.1:{port}", 1, 2, 10.0)
        teams = [first.result(), second.result()]
    assert [team.count for team in teams] == [2, 2]
    for team in teams:
        team.leave()
