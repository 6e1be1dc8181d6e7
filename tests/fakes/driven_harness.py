"""A harness whose loads say what the test says, when it says it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from neuron_lib.harness import LoadedModel, ProgressReporter
from neuron_lib.testing import ScriptedHarness, ScriptedModel
from neuron_lib.types import ModelSpec

__all__ = ("DrivenHarness",)


class DrivenHarness:
    """A harness named `driven`. Its loads end when `finish` says so, with `load_error` if there is one.

    `reports` has the reporter of each load that was begun, by public id. Whatever a model holds is back once
    `may_close` is set, which it is from the start unless the test puts another event there.
    """

    name = "driven"

    def __init__(self, *, load_error: Exception | None = None) -> None:
        self.reports: dict[str, ProgressReporter] = {}
        self.may_close: anyio.Event = anyio.Event()
        self.may_close.set()
        self._load_error = load_error
        self._may_load = anyio.Event()
        self._inner = ScriptedHarness()

    @asynccontextmanager
    async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator[LoadedModel]:
        self.reports[model_id] = report
        self._inner.scripts[model_id] = ScriptedModel(stages=(), may_load=self._may_load, load_error=self._load_error)
        try:
            async with self._inner.open(spec, model_id=model_id, report=report) as model:
                yield model
        finally:
            with anyio.CancelScope(shield=True):
                await self.may_close.wait()

    async def known_capabilities(self, model_id: str) -> tuple[str, ...] | None:
        return await self._inner.known_capabilities(model_id)

    def finish(self) -> None:
        """Let every load come to its end."""
        self._may_load.set()
