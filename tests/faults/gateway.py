"""A gateway's polls, as `cortex` makes them: three questions in each round, five seconds for each answer.

On a machine with more runnable processes than cores an answer may take that many times longer (`slowness`).
"""

import http.client
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event, Thread
from types import TracebackType
from typing import Any, Self

from msgspec import DecodeError

from tests.fakes.wire_shapes import read_discovery, read_health, read_models
from tests.patience import slowness

__all__ = ("ANSWER_LIMIT_S", "Gateway")

ANSWER_LIMIT_S = 5.0
"""The gateway's own limit; three misses in a row mark a host down, here one is too many."""
PAUSE_S = 0.15
QUESTIONS: dict[str, Callable[[bytes], Any]] = {
    "/health": read_health,
    "/discovery": read_discovery,
    "/models": read_models,
}


@dataclass(slots=True)
class Gateway:
    """Polls from the beginning of its block to its end, or to `stop`.

    `misses` are answers that were late, refused, broken or of a shape that the gateway cannot read, and the end of the
    polls before anybody asked for it. A connection is used for `rounds_per_connection` rounds.
    """

    port: int
    limit_s: float = ANSWER_LIMIT_S
    rounds_per_connection: int = 1
    waits_s: list[float] = field(default_factory=list)
    misses: list[str] = field(default_factory=list)
    _over: Event = field(default_factory=Event)
    _thread: Thread | None = None

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._run, name="gateway", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def slowest_s(self) -> float:
        return max(self.waits_s, default=0.0)

    def stop(self) -> None:
        """Ask no more: from here on the host may be gone."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            self._poll_on()
        except BaseException as error:  # noqa: BLE001 - a gateway that is gone would miss nothing
            self.misses.append(f"the gateway itself broke down: {error!r}")

    def _poll_on(self) -> None:
        while not self._over.is_set():
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=self.limit_s * slowness())
            try:
                for _ in range(self.rounds_per_connection):
                    for path in QUESTIONS:
                        self._poll(connection, path)
                    if self._over.wait(PAUSE_S):
                        break
            finally:
                connection.close()

    def _poll(self, connection: http.client.HTTPConnection, path: str) -> None:
        started_s = time.monotonic()
        try:
            connection.request("GET", path)
            with connection.getresponse() as answer:
                status, body = answer.status, answer.read()
            QUESTIONS[path](body)
        except (OSError, http.client.HTTPException, DecodeError) as error:
            self.misses.append(f"{path} after {time.monotonic() - started_s:.2f} s: {error!r}")
            connection.close()
            return
        wait_s = time.monotonic() - started_s
        self.waits_s.append(wait_s)
        if status != http.client.OK or wait_s > self.limit_s * slowness():
            self.misses.append(f"{path} after {wait_s:.2f} s: status {status}")
