"""The scripted backend keeps the rules of every backend, and a backend that breaks one is found out."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from inspect import isfunction
from typing import Any, Self

import anyio
import pytest
from msgspec.structs import replace

from neuron_lib import (
    EngineDead,
    GenerationEvent,
    LoadFailed,
    LoadProgress,
    LoadStage,
    ModelSpec,
    Reply,
    RequestRejected,
    Task,
)
from neuron_lib.harness import LoadedModel, ProgressReporter
from neuron_lib.modality import require_able
from neuron_lib.testing import ScriptedHarness, ScriptedModel, harness_contract
from neuron_lib.testing.harness_contract import CHECKS, Check, Subject

pytestmark = pytest.mark.anyio

SPEC, BAD = ModelSpec(model_id="hub:o/a", harness="scripted"), ModelSpec(model_id="o/bad", harness="scripted")


def scripted() -> ScriptedHarness:
    return ScriptedHarness({"o/bad": ScriptedModel(load_error=LoadFailed("no such file"))})


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_the_scripted_backend_keeps_the_rule(check: Check) -> None:
    await check(Subject(make=scripted, spec=SPEC, bad_spec=BAD))


def test_every_check_of_the_module_is_in_the_list() -> None:
    functions = (each for each in vars(harness_contract).values() if isfunction(each))
    own = {each for each in functions if each.__module__ == harness_contract.__name__}
    assert {each for each in own if not each.__name__.startswith("_")} == set(CHECKS)


class Faulty:
    """A backend that is right in everything that a subclass does not change."""

    name = "scripted"

    def __init__(self) -> None:
        self.inner = ScriptedHarness()

    @asynccontextmanager
    async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator[LoadedModel]:
        async with self.inner.open(spec, model_id=model_id, report=report) as model:
            yield model

    async def known_capabilities(self, model_id: str) -> tuple[str, ...] | None:
        return await self.inner.known_capabilities(model_id)


class WrongId(Faulty):
    """Publishes another id."""

    @asynccontextmanager
    async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator[LoadedModel]:
        async with super().open(spec, model_id=f"hub:{model_id}", report=report) as model:
            yield model


class GoesBack(Faulty):
    """Reports an earlier stage after a later one."""

    @asynccontextmanager
    async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator[LoadedModel]:
        for stage in (LoadStage.LOADING, LoadStage.DOWNLOADING):
            report(LoadProgress(stage=stage))
        async with super().open(spec, model_id=model_id, report=report) as model:
            yield model


class TakesEverything(Faulty):
    """Embeds, and does not say so."""

    @asynccontextmanager
    async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator[LoadedModel]:
        self.inner.scripts[model_id] = ScriptedModel(capabilities=("text", "embeddings", "rerank"))
        async with super().open(spec, model_id=model_id, report=report) as model:
            truth = replace(model.info(), capabilities=("text",))
            model.info = lambda: truth  # type: ignore[method-assign]  # a fake that lies
            yield model


class _Wrapped:
    """A reply that passes everything on."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> bool | None:
        await self._inner.__aexit__(*error)
        return None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> GenerationEvent:
        return await anext(self._inner)


class _Swallowing(_Wrapped):
    async def __aexit__(self, *error: object) -> bool | None:
        await super().__aexit__(*error)
        return True


class _Unleavable(_Wrapped):
    async def __aexit__(self, *error: object) -> bool | None:
        return None


class _TwoEnds(_Wrapped):
    last: GenerationEvent | None = None

    async def __anext__(self) -> GenerationEvent:
        try:
            event = await super().__anext__()
        except StopAsyncIteration:
            if self.last is None:
                raise
            event, self.last = self.last, None
            return event
        self.last = event
        return event


class _SilentEnd(_Wrapped):
    async def __anext__(self) -> GenerationEvent:
        try:
            return await super().__anext__()
        except EngineDead:
            raise StopAsyncIteration from None


class WrongReplies(Faulty):
    """Its replies are of another kind."""

    kind: type[_Wrapped]

    @asynccontextmanager
    async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator[LoadedModel]:
        async with super().open(spec, model_id=model_id, report=report) as model:
            run = model.run
            wrong: Any = model
            wrong.run = lambda task: self.kind(run(task))
            yield model


class SwallowsExceptions(WrongReplies):
    kind = _Swallowing


class FreesNoSeat(WrongReplies):
    kind = _Unleavable


class EndsTwice(WrongReplies):
    kind = _TwoEnds


class EndsInSilence(WrongReplies):
    kind = _SilentEnd


class RefusesTooEarly(Faulty):
    """Refuses a task before its reply is entered."""

    @asynccontextmanager
    async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator[LoadedModel]:
        async with super().open(spec, model_id=model_id, report=report) as model:
            run = model.run

            def refuse(task: Task) -> Reply:
                require_able(task, model_id, model.info().capabilities)
                return run(task)

            wrong: Any = model
            wrong.run = refuse
            yield model


class NeverFails(Faulty):
    """Loads what does not exist."""


class LoadsForEver(Faulty):
    """Hangs."""

    @asynccontextmanager
    async def open(self, spec: ModelSpec, *, model_id: str, report: ProgressReporter) -> AsyncIterator[LoadedModel]:
        async with super().open(spec, model_id=model_id, report=report) as model:
            await anyio.sleep_forever()
            yield model


@pytest.mark.parametrize(
    ("make", "check"),
    [
        (WrongId, harness_contract.a_loaded_model_describes_itself),
        (GoesBack, harness_contract.progress_never_goes_back),
        (TakesEverything, harness_contract.a_task_that_the_model_cannot_do_is_refused),
        (NeverFails, harness_contract.a_load_that_cannot_succeed_says_so),
        (SwallowsExceptions, harness_contract.a_reply_that_is_left_frees_its_seat),
        (EndsTwice, harness_contract.a_reply_starts_and_finishes_once),
        (EndsInSilence, harness_contract.a_reply_of_a_model_that_is_gone_raises_engine_dead),
    ],
)
async def test_a_backend_that_breaks_the_rule_is_found_out(make: type[Faulty], check: Check) -> None:
    with pytest.raises(AssertionError):
        await check(Subject(make=make, spec=SPEC, bad_spec=BAD))


async def test_a_backend_that_refuses_before_the_reply_is_entered_is_found_out() -> None:
    with pytest.raises(RequestRejected):
        await harness_contract.a_task_that_the_model_cannot_do_is_refused(Subject(make=RefusesTooEarly, spec=SPEC))


async def test_a_backend_that_frees_no_seat_is_found_out() -> None:
    with pytest.raises(TimeoutError):
        await harness_contract.a_reply_that_is_left_frees_its_seat(Subject(make=FreesNoSeat, spec=SPEC, limit_s=0.05))


async def test_a_backend_that_hangs_is_found_out() -> None:
    with pytest.raises(TimeoutError):
        await harness_contract.a_loaded_model_describes_itself(Subject(make=LoadsForEver, spec=SPEC, limit_s=0.0))
