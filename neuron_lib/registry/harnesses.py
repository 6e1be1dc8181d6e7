"""The harnesses of one host by their names and aliases. Opens no model."""

from collections.abc import Iterable, Mapping
from typing import Final

from neuron_lib.errors import LoadFailed, Overloaded, OverloadReason, UnknownHarness
from neuron_lib.harness import Estimator, Harness, PlanningHarness, RpcHarness, SelectiveHarness
from neuron_lib.registry.harness_by_format import HarnessByFormat
from neuron_lib.shown import clip
from neuron_lib.sizes import format_size
from neuron_lib.types import MemoryPlan, ModelSpec, RpcServer, public_id

__all__ = ("Harnesses",)

_MOST_PLANS: Final = 4
"""Plans that are made for callers at the same time. Each takes a process."""
_PLAN_RETRY_S: Final = 5


class Harnesses:
    """The harnesses that models can be loaded with."""

    def __init__(self) -> None:
        self._by_name: dict[str, Harness] = {}
        self._plans_under_way = 0

    def register(self, harness: Harness, *, aliases: Iterable[str] = ()) -> None:
        """Make a harness available under its name and `aliases`; the latest registration of a name counts."""
        for name in (harness.name, *aliases):
            self._by_name[name] = harness

    @property
    def names(self) -> tuple[str, ...]:
        """The harnesses' own names, each once."""
        return tuple(dict.fromkeys(harness.name for harness in self._by_name.values()))

    def find(self, spec: ModelSpec) -> Harness:
        """The harness that `spec` names, or the only one if it names none, or one that chooses by the model's files.

        Raises `UnknownHarness`, which says which names are known.
        """
        if spec.harness is None:
            return self._only(spec)
        harness = self._by_name.get(spec.harness)
        if harness is None:
            known = ", ".join(sorted(self._by_name)) or "none"
            raise UnknownHarness(
                f"unknown harness {clip(spec.harness)!r}; registered: {known}", model_id=public_id(spec.model_id)
            )
        return harness

    @property
    def can_choose(self) -> bool:
        """Whether a load need not name a harness."""
        return len(self.names) < 2 or any(isinstance(each, SelectiveHarness) for each in self._by_name.values())

    def _only(self, spec: ModelSpec) -> Harness:
        if len(self.names) > 1 and self.can_choose:
            return HarnessByFormat([self._by_name[name] for name in self.names])
        if len(self.names) != 1:
            problem = f"has the harnesses {', '.join(self.names)}: name one of them" if self.names else "has no harness"
            raise UnknownHarness(f"this host {problem}", model_id=public_id(spec.model_id))
        return self._by_name[self.names[0]]

    def rpc_servers(self) -> tuple[RpcServer, ...]:
        """The servers of devices of other hosts, of all harnesses; see `RpcHarness`."""
        harnesses = dict.fromkeys(self._by_name.values())
        return tuple(each for one in harnesses if isinstance(one, RpcHarness) for each in one.rpc_servers())

    async def estimate(self, spec: ModelSpec) -> MemoryPlan:
        """How a load of this spec would be done now; see `Estimator`.

        Also raises `UnknownHarness`, `LoadFailed` for a harness that cannot say it, and `Overloaded` if many plans are
        being made.
        """
        harness = await self._found(spec)
        if not isinstance(harness, Estimator):
            counted = await harness.memory_need(spec) if isinstance(harness, PlanningHarness) else {}
            needs = " and ".join(f"{format_size(need)} on {device}" for device, need in counted.items())
            known = f" exactly; it counts {public_id(spec.model_id)} as {needs}" if needs else ""
            raise LoadFailed(f"the harness {harness.name} cannot say how much memory a load takes{known}")
        if self._plans_under_way >= _MOST_PLANS:
            raise Overloaded(
                f"{_MOST_PLANS} memory plans are being made already",
                reason=OverloadReason.TOO_MANY_LOADS,
                retry_after_s=_PLAN_RETRY_S,
            )
        self._plans_under_way += 1
        try:
            return await harness.estimate(spec)
        finally:
            self._plans_under_way -= 1

    async def memory_need(self, spec: ModelSpec) -> Mapping[str, int]:
        """The bytes that a load will take on each device; see `PlanningHarness`. Empty if that cannot be said.

        Also raises `UnknownHarness`.
        """
        harness = await self._found(spec)
        return await harness.memory_need(spec) if isinstance(harness, PlanningHarness) else {}

    async def _found(self, spec: ModelSpec) -> Harness:
        """The harness that loads the model: see `find`. Also raises what `HarnessByFormat.choose` raises."""
        harness = self.find(spec)
        return await harness.choose(spec) if isinstance(harness, HarnessByFormat) else harness

    async def known_capabilities(self, model_id: str) -> tuple[str, ...] | None:
        """The capabilities of a model that does not serve, by the first harness that knows them. None if none does."""
        for harness in dict.fromkeys(self._by_name.values()):
            known = await harness.known_capabilities(model_id)
            if known is not None:
                return known
        return None
