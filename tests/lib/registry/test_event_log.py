"""What is kept of the events of a host, and what their readers get."""

from collections.abc import Iterator
from functools import partial

import anyio
import msgspec
import pytest

from neuron_lib.registry.event_log import START, EventLog, HostEvents, is_event_id
from neuron_lib.types import (
    GapEvent,
    HostEvent,
    LoadProgress,
    LoadStage,
    ModelEvent,
    ModelPhase,
    ProgressEvent,
    RejectionEvent,
)
from tests.fakes.turns import let_others_run
from tests.patience import PATIENCE_S

pytestmark = pytest.mark.anyio

MOST = 256


@pytest.fixture
def log() -> EventLog:
    return EventLog(unix_s=lambda: 1000.0004)


def phase(log: EventLog, model_id: str = "org/a", phase: ModelPhase = ModelPhase.SERVING) -> None:
    log.add(partial(ModelEvent, model_id=model_id, phase=phase))


def progress(log: EventLog, done: int, stage: LoadStage = LoadStage.LOADING, model_id: str = "org/a") -> None:
    log.add(partial(ProgressEvent, model_id=model_id, progress=LoadProgress(stage=stage, bytes=done), elapsed_ms=0))


def refusal(log: EventLog, code: str) -> None:
    log.add(partial(RejectionEvent, what="request", model_id="org/a", code=code, reason="no"))


async def batch(reader: HostEvents) -> tuple[HostEvent, ...]:
    """What there is to read now."""
    with anyio.fail_after(PATIENCE_S):
        return await reader.next_batch()


def shown(events: tuple[HostEvent, ...]) -> Iterator[str | int | None]:
    """The model, the code or the bytes of each event, "gap" for a gap."""
    for event in events:
        match event:
            case ModelEvent():
                yield event.model_id
            case RejectionEvent():
                yield event.code
            case ProgressEvent():
                yield event.progress.bytes
            case GapEvent():
                yield "gap"


async def test_a_reader_gets_what_happens_from_then_on(log: EventLog) -> None:
    phase(log, "org/before")
    reader = log.read()
    phase(log, "org/a")
    phase(log, "org/b")
    assert [*shown(await batch(reader))] == ["org/a", "org/b"]
    phase(log, "org/c")
    assert [*shown(await batch(reader))] == ["org/c"]


async def test_a_reader_waits_for_the_next_event(log: EventLog) -> None:
    got: list[HostEvent] = []

    async def read() -> None:
        got.append(await anext(log.read()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        await let_others_run()
        assert got == []
        phase(log)
    assert [*shown(tuple(got))] == ["org/a"]


async def test_a_reader_goes_on_after_the_event_that_it_names(log: EventLog) -> None:
    first = log.read()
    for name in ("org/a", "org/b", "org/c"):
        phase(log, name)
    _, second, _ = await batch(first)
    assert [*shown(await batch(log.read(second.id)))] == ["org/c"]


async def test_from_the_start_a_reader_gets_all_that_is_kept(log: EventLog) -> None:
    phase(log, "org/a")
    phase(log, "org/b")
    assert [*shown(await batch(log.read(START)))] == ["org/a", "org/b"]


async def test_an_event_says_when_it_was_to_the_millisecond(log: EventLog) -> None:
    reader = log.read()
    phase(log)
    assert [event.at for event in await batch(reader)] == [1000.0]


@pytest.mark.parametrize("unknown", ["00000000-1", "banana", ""])
async def test_after_an_event_of_another_process_comes_a_gap_and_all_that_is_kept(log: EventLog, unknown: str) -> None:
    phase(log)
    assert [*shown(await batch(log.read(unknown)))] == ["gap", "org/a"]


async def test_after_an_event_that_is_still_to_come_there_is_a_gap(log: EventLog) -> None:
    reader = log.read()
    phase(log)
    (event,) = await batch(reader)
    later = event.id.replace("-1", "-2")
    assert [*shown(await batch(log.read(later)))] == ["gap", "org/a"]


async def test_a_gap_is_told_at_once_even_if_nothing_has_happened(log: EventLog) -> None:
    (gap,) = await batch(log.read("00000000-7"))
    assert isinstance(gap, GapEvent)
    phase(log)
    assert [*shown(await batch(log.read(gap.id)))] == ["org/a"]


async def test_the_oldest_events_of_a_kind_are_dropped_and_a_reader_is_told_of_the_gap(log: EventLog) -> None:
    reader, start = log.read(), MOST + 3
    for number in range(start):
        phase(log, str(number))
    told = [*shown(await batch(reader))]
    assert told == ["gap", *map(str, range(3, start))]
    phase(log, "later")
    assert [*shown(await batch(reader))] == ["later"]


async def test_a_flood_of_one_kind_drops_no_event_of_another(log: EventLog) -> None:
    phase(log, "org/a")
    for number in range(2 * MOST):
        refusal(log, str(number))
    told = [*shown(await batch(log.read(START)))]
    assert told == ["gap", "org/a", *map(str, range(MOST, 2 * MOST))]


async def test_a_reader_that_knows_all_that_was_dropped_has_no_gap(log: EventLog) -> None:
    reader = log.read()
    for number in range(MOST):
        refusal(log, str(number))
    last = (await batch(reader))[-1]
    for _ in range(MOST):
        phase(log)
    assert "gap" not in shown(await batch(log.read(last.id)))


async def test_of_the_progress_of_one_stage_only_the_last_is_kept_and_that_is_no_gap(log: EventLog) -> None:
    reader = log.read()
    progress(log, 5, LoadStage.DOWNLOADING)
    for done in range(1000):
        progress(log, done)
    phase(log)
    progress(log, 7, model_id="org/b")
    assert [*shown(await batch(reader))] == [5, 999, "org/a", 7]


async def test_of_two_loads_that_go_on_in_turn_no_progress_is_missed(log: EventLog) -> None:
    reader = log.read()
    progress(log, 1, model_id="org/a")
    progress(log, 2, model_id="org/b")
    assert [*shown(await batch(reader))] == [1, 2]
    progress(log, 3, model_id="org/a")
    assert [*shown(await batch(reader))] == [3]


async def test_what_is_kept_is_bounded_however_many_models_load(log: EventLog) -> None:
    for number in range(3 * MOST):
        progress(log, number, model_id=str(number))
    assert len(await batch(log.read(START))) == MOST + 1  # with the gap


async def test_a_reader_that_is_cancelled_while_it_waits_misses_nothing(log: EventLog) -> None:
    reader = log.read()
    with anyio.move_on_after(0):
        await reader.next_batch()
    phase(log)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await reader.next_batch()
    assert [*shown(await batch(reader))] == ["org/a"]


async def test_a_reader_ends_after_the_last_event(log: EventLog) -> None:
    reader = log.read()
    phase(log)
    log.close()
    assert [*shown(tuple([event async for event in reader]))] == ["org/a"]
    assert await batch(reader) == ()


async def test_two_logs_have_ids_of_their_own() -> None:
    ids = set()
    for log in (EventLog(), EventLog()):
        phase(log)
        ids |= {event.id for event in await batch(log.read(START))}
    assert len(ids) == 2
    assert all(map(is_event_id, ids))


@pytest.mark.parametrize("text", ["", "start", "12345678", "12345678-", "-1", "12345678-1\n", "12345678-" + "1" * 99])
def test_other_texts_are_no_ids(text: str) -> None:
    assert not is_event_id(text)


async def test_an_event_is_json_whose_type_tells_its_kind(log: EventLog) -> None:
    reader = log.read()
    phase(log, phase=ModelPhase.GONE)
    progress(log, 5)
    events = await batch(reader)
    sent = [msgspec.json.decode(msgspec.json.encode(event)) for event in events]
    epoch = events[0].id.partition("-")[0]
    assert sent == [
        {"type": "model", "id": f"{epoch}-1", "at": 1000.0, "model_id": "org/a", "phase": "gone"},
        {
            "type": "progress",
            "id": f"{epoch}-2",
            "at": 1000.0,
            "model_id": "org/a",
            "progress": {"stage": "loading", "bytes": 5},
            "elapsed_ms": 0,
        },
    ]
    assert msgspec.json.decode(msgspec.json.encode(sent), type=tuple[HostEvent, ...]) == events


async def test_what_is_kept_can_be_seen_without_a_reader(log: EventLog) -> None:
    assert log.kept() == ()
    refusal(log, "first")
    phase(log)
    refusal(log, "second")
    assert [*shown(log.kept())] == ["first", "org/a", "second"]
    assert log.kept() == await batch(log.read(START))
