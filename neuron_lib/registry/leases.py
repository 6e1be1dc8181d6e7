"""The leases of one model. While a request has a lease, the model is not unloaded."""

from collections.abc import Callable

import anyio

from neuron_lib.errors import RequestRejected
from neuron_lib.harness import Reply

__all__ = ("Leases",)


class Leases:
    """The requests that one model has admitted or is admitting. Counts them. Can refuse those not yet admitted."""

    def __init__(self, *, on_idle: Callable[[], None]) -> None:
        """`on_idle` is called each time the last lease ends."""
        self.count: int = 0
        self._on_idle = on_idle
        self._entering: set[anyio.CancelScope] = set()
        self._refusal: Callable[[], RequestRejected] | None = None

    def __repr__(self) -> str:
        return f"<Leases {self.count}, {len(self._entering)} of them entering>"

    async def enter(self, reply: Reply) -> Reply:
        """Take a lease and enter `reply`. If entering fails, the lease ends.

        Raises the errors of entering, and the refusal as soon as `refuse` is called.
        """
        self.count += 1
        try:
            return await self._enter(reply)
        except BaseException:
            self.release()
            raise

    async def _enter(self, reply: Reply) -> Reply:
        with anyio.CancelScope() as scope:
            self._entering.add(scope)
            try:
                return await reply.__aenter__()
            finally:
                self._entering.remove(scope)
        assert self._refusal is not None  # only `refuse` cancels the scope
        raise self._refusal()

    def release(self) -> None:
        """End the lease of a reply that was entered."""
        self.count -= 1
        if not self.count:
            self._on_idle()

    def refuse(self, refusal: Callable[[], RequestRejected]) -> None:
        """Refuse the requests that have not entered their reply. The first refusal counts."""
        if self._refusal is None:
            self._refusal = refusal
        for scope in self._entering:
            scope.cancel()
