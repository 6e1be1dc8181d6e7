"""A call of a daemon that takes long, beside questions about how far it is."""

from collections.abc import Callable
from concurrent.futures import Future
from threading import Thread
from typing import Final, TypeVar

__all__ = ("LONGEST_CALL_S", "run_beside")

T = TypeVar("T")

LONGEST_CALL_S: Final = 24 * 3600.0
"""How long a load or an unload is waited for. A fetch over a slow line takes hours."""
_PAUSE_S: Final = 0.5


def run_beside(call: Callable[[], T], watch: Callable[[], None], *, pause_s: float = _PAUSE_S) -> T:
    """The result of `call`, which runs in a thread. `watch` is called each `pause_s` until then, in this thread.

    What either raises ends the wait. The thread is then left to itself, and ends at the latest with the process.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - the caller gets whatever it was
            future.set_exception(error)

    Thread(target=run, name="long call", daemon=True).start()
    while True:
        try:
            return future.result(timeout=pause_s)
        except TimeoutError:
            if future.done():  # the call itself has raised TimeoutError
                return future.result()
        watch()
