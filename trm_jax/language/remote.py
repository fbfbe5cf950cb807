"""Chat models behind an OpenAI-compatible address: one request at a time, by the standard library.

A key goes into a header of the request and nowhere else. Redirects are not followed, for they would take it along, and
where a server repeats it, it is blotted out.
"""

from __future__ import annotations

import http.client
import json
import math
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from trm_jax.errors import InputError, OutOfReach
from trm_jax.storage.bucket import PASSING

ATTEMPTS = 5
PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0  # before the second attempt; twice as long before each that follows


@dataclass(frozen=True)
class Key:
    """A secret of the environment variable `name`."""

    name: str
    secret: str = field(repr=False)


class Reply(NamedTuple):
    """What a model wrote. first: (text, log-probability) of the likeliest first tokens, where the server tells them."""

    text: str
    first: tuple[tuple[str, float], ...] | None
    repeated: int  # how often the request was made again
    tokens: int | None = None  # of prompt and reply, where the server tells them


class Refused(InputError):
    """The server does not do what it was asked; `status` is its HTTP code."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class Unanswered(OutOfReach):
    """The server did not answer, in so many attempts."""

    def __init__(self, message: str, attempts: int):
        super().__init__(message)
        self.attempts = attempts


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args):
        return None


_OPENER = urllib.request.build_opener(_NoRedirect)


def key_of(*names: str) -> Key | None:
    """The first of these environment variables that is set. Raises InputError for one that cannot be sent."""
    for name in names:
        if secret := os.environ.get(name, "").strip():
            if not (secret.isascii() and secret.isprintable()) or " " in secret:
                raise InputError(f"{name} holds letters that no key has; set it again")
            return Key(name, secret)
    return None


def is_address(text: str) -> bool:
    return text.startswith(("http://", "https://"))


def check_address(text: str) -> None:
    """Raise InputError for what is not http(s)://HOST[:PORT][/PATH]."""
    try:
        parts = urlsplit(text)
        good = is_address(text) and parts.hostname and parts.port != 0 and text.isascii() and " " not in text
        (parts.hostname or "").encode("idna")  # as it will be when it is looked up: a..b is no name
    except ValueError:
        good = False
    if not good or not text.isprintable():
        raise InputError(f"{text!r} is no address; write one as http://localhost:8000/v1")
    if parts.query or parts.fragment or parts.username is not None:
        raise InputError(f"an address for {parts.hostname} must end in its path; a key belongs into the environment")


def exposes_key(address: str) -> bool:
    """Whether a key sent there can be read on the way."""
    parts = urlsplit(address)
    return parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1")


def ask(
    address: str,
    model: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    top: int = 0,
    key: Key | None = None,
    timeout_s: float = 60.0,
    attempts: int = ATTEMPTS,
    within_s: float = math.inf,
    say: Callable[[str], None] = lambda line: None,
    **more: Any,
) -> Reply:
    """What `model` at `address` (http://localhost:8000/v1) writes to messages [{"role": "user", "content": "Hi"}, ...].

    top: of how many of the likeliest first tokens the log-probabilities are asked for; timeout_s: of an attempt. What
    may pass (429, 5xx, no answer in time, a connection that breaks) is tried so many times, as late as the server
    asks for but no later than within_s, and told to `say`. more: other fields of the request. Raises Unanswered where
    the last attempt fails or nothing can be reached, Refused for what the server will not do and for what is no
    completion (status 200), InputError for an address that is none.
    """
    check_address(address)
    body = {"model": model, "messages": list(messages), "max_tokens": max_tokens, "temperature": temperature, **more}
    if top:
        body |= {"logprobs": True, "top_logprobs": top}
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key.secret}"} if key else {})
    where = f"{address.rstrip('/').removesuffix('/chat/completions')}/chat/completions"
    request = urllib.request.Request(where, json.dumps(body).encode(), headers)
    until = time.monotonic() + within_s
    for repeated in range(attempts):
        status, sent, wait = _sent(request, min(timeout_s, max(0.001, until - time.monotonic())))
        if key:
            sent = _blotted(sent, key)
        if status == 200:
            return _reply(address, sent, repeated)
        if status == 401:  # what the server says of it may hold a part of the key
            problem = f"refuses the key of {key.name}; set the right one" if key else "wants a key; set it"
            raise Refused(f"{address} {problem} in the environment", status)
        problem = f"answers {status}: {_message(sent)}" if status else f"does not answer: {sent}"
        if status and status not in PASSING:
            raise Refused(f"{address} {problem}", status)
        if wait is None:
            raise Unanswered(f"{address} {problem}; is it right, and is the server up?", repeated + 1)
        if repeated + 1 < attempts:
            wait = min(max(wait, PAUSE_S * 2**repeated), LONGEST_PAUSE_S)
            if time.monotonic() + wait >= until:
                break
            say(f"note: {address} {problem}; asking again in {wait:.0f} s")
            time.sleep(wait)
    times = repeated + 1
    raise Unanswered(f"{address} {problem} ({times} times); the same command goes on once it works again", times)


def _sent(request: urllib.request.Request, timeout_s: float) -> tuple[int, str, float | None]:
    """(HTTP code or 0, content or why there is none, seconds to wait before the next attempt; None: there is none)."""
    until = time.monotonic() + timeout_s
    try:
        with _OPENER.open(request, timeout=timeout_s) as answer:
            return answer.status, _content(answer, until), 0.0
    except urllib.error.HTTPError as error:
        with error:
            try:
                content = _content(error, until)
            except (OSError, http.client.HTTPException):
                content = ""
        wanted = error.headers.get("Retry-After", "")
        return error.code, content, float(wanted) if wanted.isdecimal() else 0.0
    except (OSError, http.client.HTTPException) as error:
        cause = getattr(error, "reason", error)
        passing = isinstance(cause, TimeoutError | ConnectionError | http.client.HTTPException)
        why = f"not within {timeout_s:g} s" if isinstance(cause, TimeoutError) else one_line(cause)
        return 0, why, 0.0 if passing and not isinstance(cause, ConnectionRefusedError) else None


def _content(answer, until: float) -> str:
    """All of an answer; the time-out of a socket is for each of its pieces only."""
    told = answer.headers.get("Content-Length", "")
    size, whole = int(told) if told.isdecimal() else math.inf, b""
    while len(whole) < size and (piece := answer.read1(2**16)):  # for a server may leave the connection open
        whole += piece
        if time.monotonic() > until:
            raise TimeoutError
    if len(whole) < size < math.inf:
        raise http.client.IncompleteRead(whole, size - len(whole))
    return whole.decode("utf-8", "replace")


def _blotted(content: str, key: Key) -> str:
    """Content without the key, however JSON spells it."""
    with suppress(ValueError, RecursionError):
        content = json.dumps(json.loads(content), ensure_ascii=False)
    return content.replace(json.dumps(key.secret)[1:-1], "***").replace(key.secret, "***")


def _reply(address: str, content: str, repeated: int) -> Reply:
    try:
        said = json.loads(content)
        choice = said["choices"][0]
        text = choice["message"]["content"] or ""
        text = text.encode(errors="replace").decode()  # half a surrogate pair is no text
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        said = f"{address} answers, but not as OpenAI's chat completions do: {one_line(content) or 'nothing'}"
        raise Refused(f"{said}; such an address often ends in /v1", 200) from None
    usage = said.get("usage")
    tokens = usage.get("total_tokens") if isinstance(usage, dict) else None
    tokens = tokens if type(tokens) is int else None
    return Reply(text, _first(choice), repeated, tokens)


def _first(choice: dict) -> tuple[tuple[str, float], ...] | None:
    try:
        told = [(one["token"], float(one["logprob"])) for one in choice["logprobs"]["content"][0]["top_logprobs"]]
    except (ValueError, LookupError, TypeError):
        return None
    return tuple((text, log_p) for text, log_p in told if isinstance(text, str) and log_p <= 0) or None


def _message(content: str) -> str:
    """What a server says of an error, in one line."""
    try:
        said = json.loads(content)
        said = said.get("error", said.get("detail", said))
        said = said.get("message", said) if isinstance(said, dict) else said
    except (ValueError, AttributeError, RecursionError):
        said = content
    return one_line(said) or "nothing more"


def one_line(said: Any, most: int = 200) -> str:
    """A short line of letters that do nothing to a terminal."""
    line = " ".join("".join(letter if letter.isprintable() else " " for letter in str(said)).split())
    return line if len(line) <= most else f"{line[:most]} ..."
