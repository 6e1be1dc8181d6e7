"""The harnesses of one host by their names and aliases. Opens no model."""

from collections.abc import Iterable

from neuron_lib.errors import UnknownHarness
from neuron_lib.harness import Harness
from neuron_lib.shown import clip
from neuron_lib.types import ModelSpec

__all__ = ("Harnesses",)


class Harnesses:
    """The harnesses that models can be loaded with."""

    def __init__(self) -> None:
        self._by_name: dict[str, Harness] = {}

    def register(self, harness: Harness, *, aliases: Iterable[str] = ()) -> None:
        """Make a harness available under its name and `aliases`; the latest registration of a name counts."""
        for name in (harness.name, *aliases):
            self._by_name[name] = harness

    @property
    def names(self) -> tuple[str, ...]:
        """The harnesses' own names, each once."""
        return tuple(dict.fromkeys(harness.name for harness in self._by_name.values()))

    def find(self, spec: ModelSpec, *, model_id: str) -> Harness:
        """The harness that `spec` names. Raises `UnknownHarness`, which says which names are known."""
        harness = self._by_name.get(spec.harness)
        if harness is None:
            known = ", ".join(sorted(self._by_name)) or "none"
            raise UnknownHarness(f"unknown harness {clip(spec.harness)!r}; registered: {known}", model_id=model_id)
        return harness

    async def known_capabilities(self, model_id: str) -> tuple[str, ...] | None:
        """The capabilities of a model that does not serve, by the first harness that knows them. None if none does."""
        for harness in dict.fromkeys(self._by_name.values()):
            known = await harness.known_capabilities(model_id)
            if known is not None:
                return known
        return None
