"""A harness for loads that name none on a host with several: the files of the model decide which one loads it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from neuron_lib.errors import LoadFailed, SourceUnavailable, UnknownHarness
from neuron_lib.harness import Harness, LoadedModel, ProgressReporter, SelectiveHarness
from neuron_lib.shown import clip
from neuron_lib.types import LoadProgress, LoadStage, ModelSpec, public_id

__all__ = ("HarnessByFormat",)


class HarnessByFormat:
    """Hands a load to the first of `harnesses` that takes the model.

    One that does not say what it takes (`SelectiveHarness`) gets what no other one takes. Lives for one load.
    """

    def __init__(self, harnesses: Sequence[Harness]) -> None:
        self._harnesses = harnesses

    @property
    def name(self) -> str:
        """Never shown of a model, which has the name of the harness that has loaded it."""
        return "by format"

    async def known_capabilities(self, model_id: str) -> tuple[str, ...] | None:
        for harness in self._harnesses:
            known = await harness.known_capabilities(model_id)
            if known is not None:
                return known
        return None

    @asynccontextmanager
    async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator[LoadedModel]:
        report(LoadProgress(stage=LoadStage.RESOLVING))
        harness = await self.choose(spec)
        async with harness.open(spec, model_id=model_id, report=report) as model:
            yield model

    async def choose(self, spec: ModelSpec) -> Harness:
        """The harness that takes the model. A harness that cannot say so does not keep the model from a later one.

        Raises `UnknownHarness` if none does, `LoadFailed` for a model that nothing can load, and `SourceUnavailable`.
        """
        selective = [harness for harness in self._harnesses if isinstance(harness, SelectiveHarness)]
        problem: LoadFailed | SourceUnavailable | None = None
        for harness in selective:
            try:
                if await harness.takes(spec):
                    return harness
            except (LoadFailed, SourceUnavailable) as error:  # a later harness may take it
                if problem is None or isinstance(problem, LoadFailed):
                    problem = error
        if problem is not None:
            raise problem
        for other in self._harnesses:
            if not isinstance(other, SelectiveHarness):
                return other
        taken = ", ".join(f"{harness.name} takes {' and '.join(harness.formats) or 'none'}" for harness in selective)
        raise UnknownHarness(
            f"no harness of this host takes the files of {clip(public_id(spec.model_id))!r}: {taken}; name a harness "
            "to load it nevertheless",
            model_id=public_id(spec.model_id),
        )
