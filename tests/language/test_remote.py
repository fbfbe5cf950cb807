"""The client of OpenAI-compatible servers, against a real one on this machine that misbehaves."""

import json
import threading
import time

import pytest

from tests.chat_server import Server, completion
from trm_jax.errors import InputError, OutOfReach
from trm_jax.language import remote

SECRET = 'sk-"/\\top-secret'
KEY = remote.Key("TRM_JUDGE_KEY", SECRET)
HELLO = [{"role": "user", "content": "Is it?"}]
FIRST = [{"token": "Yes", "logprob": -0.25}, {"token": "No", "logprob": -1.5}]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(remote, "PAUSE_S", 0.001)
    with Server() as server:
        yield server
        server.shutdown()


def ask(server, *answers, **how):
    server.answers = list(answers)
    return remote.ask(server.address, "some-model", HELLO, **{"max_tokens": 10, "key": KEY, **how})


def test_what_is_asked_and_what_comes_back(server):
    found = ask(server, completion("Yes.", FIRST), top=5, seed=3)
    assert found == ("Yes.", (("Yes", -0.25), ("No", -1.5)), 0, None)
    ((path, headers, asked),) = server.requests
    assert path == "/v1/chat/completions" and headers["Authorization"] == f"Bearer {SECRET}"
    assert asked == {
        "model": "some-model",
        "messages": HELLO,
        "max_tokens": 10,
        "temperature": 0.0,
        "logprobs": True,
        "top_logprobs": 5,
        "seed": 3,
    }
    assert ask(server, completion("Yes\ud83d")).text == "Yes?"  # half a letter, which no file would hold
    del server.requests[1]
    bare = ask(server, completion(None), key=None)
    assert bare == ("", None, 0, None)
    _, headers, asked = server.requests[1]
    assert "Authorization" not in headers and "logprobs" not in asked


@pytest.mark.parametrize("name", ["/v1/", "/v1/chat/completions"])
def test_an_address_may_be_spelled_out(server, name):
    server.answers = [completion("no")]
    remote.ask(server.address.replace("/v1", name), "m", HELLO, max_tokens=1)
    assert server.requests[0][0] == "/v1/chat/completions"


@pytest.mark.parametrize(
    "first",
    [None, "x", [], [{"token": "Yes"}], [{"token": "Yes", "logprob": float("nan")}], [{"token": 1, "logprob": -1}]],
)
def test_log_probabilities_that_are_none(server, first):
    assert ask(server, completion("Yes", first), top=5).first is None


def test_what_passes_is_tried_again(server):
    def broken(handler):
        handler.connection.close()

    def short(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n{")

    said = []
    slow = (429, '{"error": {"message": "too many requests"}}', {"Retry-After": "0"})
    found = ask(server, slow, broken, short, (503, "busy\x1b[31m\nnow", {}), completion("yes"), say=said.append)
    assert found.text == "yes" and found.repeated == 4
    assert "answers 429: too many requests; asking again in" in said[0]
    assert "does not answer" in said[1] and "does not answer" in said[2]
    assert "answers 503: busy [31m now; asking" in said[3]
    assert len(server.requests) == 5


def test_a_server_that_wants_to_be_left_alone(server):
    server.answers = [(429, "", {"Retry-After": "1"}), completion("yes")]
    began = time.monotonic()
    assert remote.ask(server.address, "m", HELLO, max_tokens=1).repeated == 1
    assert time.monotonic() - began >= 1


def test_a_server_that_is_broken_for_ever(server):
    with pytest.raises(OutOfReach, match=r"answers 500: oops \(5 times\); the same command goes on"):
        ask(server, (500, "oops", {}))
    assert len(server.requests) == remote.ATTEMPTS
    for limit in ({"attempts": 2}, {"within_s": 0.002}):  # the pause before the third is 0.002 s
        with pytest.raises(remote.Unanswered) as error:
            ask(server, (500, "oops", {}), **limit)
        assert 1 <= error.value.attempts <= 2


@pytest.mark.parametrize(("usage", "tokens"), [({"total_tokens": 7}, 7), ({"total_tokens": "7"}, None), ([], None)])
def test_tokens_are_those_that_a_server_counts(server, usage, tokens):
    code, content, headers = completion("Yes")
    assert ask(server, (code, json.dumps({**json.loads(content), "usage": usage}), headers)).tokens == tokens


@pytest.mark.parametrize("header", ["Content-Length: {}", "Content-Length: many"])
def test_a_server_that_leaves_the_connection_open(server, header):
    """What is announced is taken without waiting for the end; what is announced in no number is read to the end."""
    released, content = threading.Event(), completion("yes")[1].encode()

    def answer(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n%s\r\n\r\n" % header.format(len(content)).encode() + content)
        released.wait(10 * ("{}" in header))

    assert ask(server, answer, timeout_s=5).text == "yes"
    released.set()


@pytest.mark.parametrize("drip", [False, True])
def test_a_server_that_hangs(server, drip):
    """Whether it says nothing or a letter now and then."""
    released = threading.Event()

    def hang(handler):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" * drip)
        while not released.wait(0.02):
            handler.wfile.write(b" " * drip)

    with pytest.raises(OutOfReach, match="does not answer: not within 0.1 s"):
        ask(server, hang, timeout_s=0.1)
    released.set()
    assert len(server.requests) == remote.ATTEMPTS


def test_where_nobody_listens_is_said_at_once(server):
    server.server_close()
    with pytest.raises(OutOfReach, match="does not answer: .*refused; is it right, and is the server up"):
        ask(server, completion("yes"))


@pytest.mark.parametrize(
    "content",
    ["", "<html>hello</html>", "[]", "{", '{"choices": []}', '{"choices": [{"message": {"content": 3}}]}', "[" * 99999],
)
def test_another_kind_of_server(server, content):
    with pytest.raises(InputError, match="answers, but not as OpenAI's chat completions do: .*often ends in /v1"):
        ask(server, (200, content, {}))
    assert len(server.requests) == 1


def test_refusals_are_one_line_and_final(server):
    for code, content, words in [
        (404, '{"error": {"message": "no model some-model"}}', "answers 404: no model some-model"),
        (400, '{"detail": "bad"}', "answers 400: bad"),
        (302, "", "answers 302: nothing more"),
    ]:
        with pytest.raises(remote.Refused, match=words) as caught:
            ask(server, (code, content, {"Location": "/elsewhere"} if code == 302 else {}))
        assert caught.value.status == code and "\n" not in str(caught.value)
    assert len(server.requests) == 3


def test_a_key_is_nowhere_but_in_the_header(server, capfd):
    """Whatever the server does with it, and although it is redirected elsewhere."""
    quoted = json.dumps({"error": {"message": f"bad key {SECRET}"}})
    spelled = '{"choices": [{"message": {"content": "yes %s"}, "finish_reason": "%s"}]}'
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in SECRET)
    said = []
    for answer in [
        (401, quoted, {}),
        (403, quoted, {}),
        (400, f"bad key {SECRET}", {}),
        (500, quoted, {}),
        (200, f"<html>{SECRET}", {}),
        (200, spelled % (escaped, escaped), {}),
        completion(f"yes {SECRET}", [{"token": SECRET, "logprob": -1.0}]),
    ]:
        try:
            said.append(repr(ask(server, answer, top=1, say=said.append)))
        except (InputError, OutOfReach) as error:
            said.append(f"{error} {error!r} {error.__cause__} {vars(error)}")
    assert "set the right one in the environment" in said[0] and "yes ***" in said[-1]
    with Server() as other:
        other.answers = [completion("yes")]
        with pytest.raises(remote.Refused):
            ask(server, (307, "", {"Location": f"{other.address}/chat/completions"}))
        other.shutdown()
    assert not other.requests
    everything = "\n".join(said) + "".join(capfd.readouterr()) + repr(KEY)
    for spelling in (SECRET, repr(SECRET)[1:-1], json.dumps(SECRET)[1:-1], escaped, "top-secret"):
        assert spelling not in everything
    assert all(headers["Authorization"] == f"Bearer {SECRET}" for _, headers, _ in server.requests)
    assert all("secret" not in json.dumps(asked) for _, _, asked in server.requests)


def test_keys_of_the_environment(monkeypatch):
    names = ("TRM_JUDGE_KEY", "OPENAI_API_KEY")
    for name in names:
        monkeypatch.delenv(name, raising=False)
    assert remote.key_of(*names) is None
    monkeypatch.setenv("OPENAI_API_KEY", " other\n")
    assert remote.key_of(*names) == remote.Key("OPENAI_API_KEY", "other")
    monkeypatch.setenv("TRM_JUDGE_KEY", "one")
    assert remote.key_of(*names).secret == "one"
    for bad in ("a\nX-Evil: b", "schlüssel", "a b"):  # of which the second could end up in a traceback of http.client
        monkeypatch.setenv("TRM_JUDGE_KEY", bad)
        with pytest.raises(InputError, match="^TRM_JUDGE_KEY holds letters that no key has; set it again$"):
            remote.key_of(*names)


@pytest.mark.parametrize(
    "address",
    [
        "http://",
        "ftp://host/v1",
        "host/v1",
        "http://host:port/v1",
        "http://ho st/v1",
        "http://host:0",
        "http://[::1",
        "http://h\n",
        "http://a..b/v1",
        f"http://{'a' * 64}.com/v1",
    ],
)
def test_what_is_no_address(address):
    with pytest.raises(InputError, match="is no address; write one as http://localhost:8000/v1"):
        remote.ask(address, "m", HELLO, max_tokens=1)


@pytest.mark.parametrize("address", ["https://me:secret@host/v1", "https://host/v1?key=secret", "https://host/#secret"])
def test_a_key_in_an_address_is_refused_and_not_repeated(address):
    with pytest.raises(InputError, match="a key belongs into the environment") as caught:
        remote.check_address(address)
    assert "secret" not in str(caught.value)


def test_keys_that_can_be_read_on_the_way():
    assert remote.exposes_key("http://example.com/v1")
    assert not any(map(remote.exposes_key, ("https://example.com/v1", "http://localhost:1/v1", "http://[::1]:8/v1")))
