"""Sending things to a bucket while something else goes on."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from trm_jax.errors import OutOfReach


def reason(error: OutOfReach) -> str:
    """What did not answer, without what a person should do, because there is nothing to do yet."""
    return str(error).partition("; ")[0]


class Beside:
    """Sends things to a bucket, one at a time, while training goes on."""

    def __init__(self, say: Callable[[str], None]):
        """say: takes a line that a person should see."""
        self._say = say
        self._pool = ThreadPoolExecutor(1)
        self._under_way: Future | None = None

    def start(self, send: Callable[[], None]) -> None:
        """Call `send` soon, unless the call before is still under way. Raises what that one has raised."""
        if self._under_way is None or self._under_way.done():
            self.wait()
            self._under_way = self._pool.submit(send)

    def wait(self) -> None:
        """Raises what the call under way raises. A storage that is out of reach is told of, and asked again with the
        next one."""
        under_way, self._under_way = self._under_way, None
        try:
            if under_way:
                under_way.result()
        except OutOfReach as error:
            self._say(f"note: {reason(error)}; it is sent later")

    def close(self) -> None:
        self._pool.shutdown()
