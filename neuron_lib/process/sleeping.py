"""When a program without requests is sent to sleep, and that it is woken before the next one."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import anyio

from neuron_lib.logs import FieldLogger, get_logger

__all__ = ("Sleeper",)

logger: FieldLogger = get_logger(__name__)

_LOOKS: Final = 10
_LONGEST_LOOK_S: Final = 5.0
_DONE: Final = range(200, 300)


class Sleeper:
    """The sleep of one program. `watch` runs as long as the program serves, and every request calls `wake` first.

    A program that refuses to sleep stays awake from then on, which costs memory and no request.
    """

    def __init__(
        self,
        *,
        after_s: float,
        path: str,
        wake_path: str,
        post: Callable[[str], Awaitable[int | None]],
        is_busy: Callable[[], bool],
        fields: Mapping[str, Any],
    ) -> None:
        """`post` sends POST of a path, and returns the status of the answer, None if there is none within its limit.
        `is_busy` says whether the program has requests. `fields` are those of the log.
        """
        self._after_s: Final = after_s
        self._path: Final = path
        self._wake_path: Final = wake_path
        self._post: Final = post
        self._is_busy: Final = is_busy
        self._fields: Final = fields
        self._lock: Final = anyio.Lock()
        self._is_asleep = False
        self._requests = 0

    async def watch(self) -> None:
        """Send the program to sleep each time it has had no request for long enough. Ends when it refuses to."""
        look_s = min(_LONGEST_LOOK_S, self._after_s / _LOOKS)
        requests, since_s = self._requests, anyio.current_time()
        while True:
            await anyio.sleep(look_s)
            if self._is_busy() or self._requests != requests or self._is_asleep:
                requests, since_s = self._requests, anyio.current_time()
            elif anyio.current_time() - since_s >= self._after_s:
                async with self._lock:
                    if not self._is_busy() and not await self._fall_asleep():
                        return

    async def _fall_asleep(self) -> bool:
        self._is_asleep = True  # perhaps, until it has answered, and also if it does not
        status = await self._post(self._path)
        if status is None or status in _DONE:
            logger.info("program sleeps", extra=self._fields)
            return True
        self._is_asleep = False
        fields = {**self._fields, "path": self._path, "status": status}
        logger.warning("program refuses to sleep, and stays awake", extra=fields)
        return False

    async def wake(self) -> str | None:
        """Wake the program if it sleeps. Returns why it does not wake up; None if it is awake."""
        self._requests += 1
        async with self._lock:
            if not self._is_asleep:
                return None
            with anyio.CancelScope(shield=True):  # a client that leaves must not leave it half awake; `post` is bounded
                status = await self._post(self._wake_path)
            if status not in _DONE:
                answer = "with nothing" if status is None else f"with {status}"
                return f"it does not wake up: it answered POST {self._wake_path} {answer}"
            self._is_asleep = False
        logger.info("program is awake", extra=self._fields)
        return None
