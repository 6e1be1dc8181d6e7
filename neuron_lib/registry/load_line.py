"""The line of loads that wait until there is room for them, and who waits for them. Begins no load."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from neuron_lib.errors import NeuronError, Overloaded, OverloadReason
from neuron_lib.registry.hosted_model import HostedModel
from neuron_lib.registry.making_room import Needs, Wanted
from neuron_lib.registry.progress import retry_after_s
from neuron_lib.types import ModelSpec, public_id

__all__ = ("LoadLine", "WaitingLoad")

_INTEREST_S: Final = 120.0
"""A load that waits is given up when nobody has asked for it for so long. No Retry-After is longer."""


@dataclass(slots=True, eq=False, kw_only=True)
class WaitingLoad:
    """One load that waits for its turn. `outcome` is the load when it has begun, or why it never will."""

    spec: ModelSpec
    model_id: str
    may_displace: bool
    asked_s: float
    needs: Needs | None = None
    """None until the harness has said it."""
    outcome: HostedModel | NeuronError | None = None


class LoadLine(dict[str, WaitingLoad]):
    """The loads that wait, by public id, in the order in which they came. Lives as long as its registry."""

    def __init__(self, *, clock: Callable[[], float], on_change: Callable[[], None]) -> None:
        """`clock` gives seconds. `on_change` is called when a load has joined or left the line."""
        super().__init__()
        self._clock = clock
        self._on_change = on_change
        self._callers: Counter[str] = Counter()

    def join(self, spec: ModelSpec, *, may_displace: bool, most: int) -> WaitingLoad:
        """Somebody asks for this load. Raises `Overloaded` if `most` loads wait already."""
        id_ = public_id(spec.model_id)
        load = self.get(id_)
        if load is None:
            if len(self) >= most:
                raise Overloaded(
                    f"{len(self)} loads wait on this host, and it takes no more",
                    reason=OverloadReason.TOO_MANY_LOADS,
                    retry_after_s=retry_after_s(None),
                    model_id=id_,
                )
            load = WaitingLoad(spec=spec, model_id=id_, may_displace=may_displace, asked_s=self._clock())
            self.put(load)
        load.asked_s = self._clock()
        load.may_displace |= may_displace
        return load

    def put(self, load: WaitingLoad) -> None:
        """Put a load at the end of the line."""
        self[load.model_id] = load
        self._on_change()

    def end(self, load: WaitingLoad, outcome: HostedModel | NeuronError) -> None:
        """The load has begun, or it never will."""
        load.outcome = outcome
        if self.get(load.model_id) is load:
            del self[load.model_id]
        self._on_change()

    @contextmanager
    def waited_for(self, model_id: str) -> Iterator[None]:
        """Within the block a caller waits for the load of this public id, so the load stays in the line."""
        self._callers[model_id] += 1
        try:
            yield
        finally:
            self._callers[model_id] -= 1
            if not self._callers[model_id]:
                del self._callers[model_id]
            if (load := self.get(model_id)) is not None:
                load.asked_s = self._clock()

    def forgotten(self, *, now_s: float) -> tuple[list[WaitingLoad], float | None]:
        """The loads that nobody has asked for lately, and when the next one will be such a load."""
        due_s = {
            load.model_id: load.asked_s + _INTEREST_S for load in self.values() if not self._callers[load.model_id]
        }
        over = [load for load in self.values() if due_s.get(load.model_id, now_s + 1) <= now_s]
        return over, min((each_s for each_s in due_s.values() if each_s > now_s), default=None)

    def wanted(self, *, but: Collection[str]) -> list[Wanted]:
        """The loads whose needs are known, without those of the ids in `but`."""
        return [
            Wanted(model_id=load.model_id, needs=load.needs, may_displace=load.may_displace)
            for load in self.values()
            if load.needs is not None and load.model_id not in but
        ]
