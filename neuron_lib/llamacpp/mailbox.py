"""What one request is told by its engine, between the task that reads frames and the task that reads the reply.

A `Mailbox` is a `Listener`.
"""

from collections import deque
from collections.abc import Callable
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from neuron_lib.engine.protocol import Delta
from neuron_lib.llamacpp.engine_client import News

__all__ = ("Mailbox",)

_MOST_MAIL: Final = 64
"""Mail that is kept apart for a slow reader. Further deltas are merged, so they take the memory of their text alone."""


class Mailbox:
    """One writer that never waits, one reader. Lives as long as the request is with one engine.

    A failure is the last thing that the reader gets: first all that was delivered before, then the error, each time.

    `relay` takes the deltas that arrive while the reader waits and nothing is left for it, so that the reader need not
    be woken. It returns whether it takes the next delta as well. If not, the next delta wakes the reader. An exception
    of `relay` fails the mailbox.
    """

    def __init__(self) -> None:
        self.relay: Callable[[Delta], bool] | None = None
        self._mail: deque[News] = deque()
        self._failure: Exception | None = None
        self._news = anyio.Event()
        self._relays = False  # whether `relay` takes the next delta; only while the reader waits

    def hear(self, mail: News) -> None:
        """Deliver. Merges a delta into the last one of its choice when the reader is far behind.

        Nothing is delivered after a failure: a request that was refused here may still be begun by its engine.
        """
        if self._failure is not None:
            return
        if self._relays and self.relay is not None and isinstance(mail, Delta):
            try:
                self._relays = self.relay(mail)
            except Exception as error:  # noqa: BLE001 - the reader raises it; the engine's other requests go on
                self.fail(error)
            return
        self._relays = False
        is_merged = isinstance(mail, Delta) and len(self._mail) >= _MOST_MAIL and self._merge(mail)
        if not is_merged:
            self._mail.append(mail)
        self._news.set()

    def _merge(self, new: Delta) -> bool:
        for place in range(len(self._mail) - 1, -1, -1):
            last = self._mail[place]
            if isinstance(last, Delta) and last.choice == new.choice:
                self._mail[place] = Delta(
                    request=new.request,
                    text=last.text + new.text,
                    tokens=last.tokens + new.tokens,
                    choice=new.choice,
                    logprobs=last.logprobs + new.logprobs,
                )
                return True
        return False

    def fail(self, error: Exception) -> None:
        """Let the reader raise `error` after what is delivered already. The first failure counts."""
        self._relays = False
        if self._failure is None:
            self._failure = error
        self._news.set()

    async def get(self) -> News:
        """Wait for the next mail. Raises what `fail` was told once there is none left.

        Always a checkpoint, so a reader that never has to wait still lets others run. A reader that is cancelled takes
        no mail out.
        """
        if self._mail:
            await checkpoint()
        while not self._mail:
            if self._failure is not None:
                raise self._failure
            self._news = anyio.Event()
            self._relays = self.relay is not None
            try:
                await self._news.wait()
            finally:
                self._relays = False
        return self._mail.popleft()
