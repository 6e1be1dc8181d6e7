"""What the page says of a host, in words. Pure: everything is an argument, and nothing here knows HTML."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Literal

from msgspec import UNSET, Struct

from neuron_lib.registry.progress import describe
from neuron_lib.sizes import format_size
from neuron_lib.types import (
    ActivationSnapshot,
    Device,
    DeviceHealth,
    FailedLoad,
    Health,
    HostCpus,
    HostEvent,
    HostMemory,
    LoadingModel,
    ModelInfo,
    ModelLoad,
    ModelStatus,
    UnloadingModel,
)
from neuron_service.access.scopes import SCOPES
from neuron_service.page.happenings import Request, Trouble, requests_of, troubles_of
from neuron_service.page.words import MIB, counted, duration, mib_of, speed
from neuron_service.status import NotReady

__all__ = ("Card", "Fact", "ModelState", "PageFacts", "View", "view_of")


class ModelState(StrEnum):
    """The states of a model that the page tells apart, in the order of their cards. The value is what people read."""

    LOADING = "loading"
    RECOVERING = "recovering"
    UNLOADING = "unloading"
    SERVING = "serving"
    WAITING = "waiting"
    LOST = "lost"
    FAILED = "failed"


_RANK = {state: rank for rank, state in enumerate(ModelState)}


class PageFacts(Struct, frozen=True, kw_only=True):
    """What the page shows, as the host has it at one moment. `version` is "" while it is not known.

    `on_demand` are the ids of the models that a chat would load, `configured` those of all models of the configuration.
    `events` are the last events, oldest first. `scopes` are what the reader of the page may do. `now_s` is in seconds
    of Unix time.
    """

    hostname: str
    status: str
    not_ready: NotReady | None
    version: str
    health: Health
    models: tuple[ModelInfo, ...]
    on_demand: tuple[str, ...] = ()
    configured: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    harnesses: tuple[str, ...] = ()
    events: tuple[HostEvent, ...] = ()
    scopes: frozenset[str] = frozenset(SCOPES)
    now_s: float = 0.0


class Fact(Struct, frozen=True, kw_only=True):
    """One thing to know. `share`, 0 to 1, is how much of a limit is taken; None where there is no limit."""

    name: str
    value: str
    share: float | None = None


class Card(Struct, frozen=True, kw_only=True):
    """One model. `fraction` is the progress of a load, 0 to 1. `action` is what a person may do with the model."""

    id: str
    state: ModelState
    words: str = ""
    fraction: float | None = None
    facts: tuple[Fact, ...] = ()
    error: str = ""
    can_chat: bool = False
    action: Literal["load", "unload", "cancel"] | None = None


class View(Struct, frozen=True, kw_only=True):
    """The whole page. `tone` says in one word how the host is: `good`, `idle`, `busy` or `bad`.

    `chats` are the ids of the models that a person can chat with: those that serve, and then those that a chat would
    load. If there are none, `no_chat` says why. `loadable` are models of the configuration that have no card.
    `can_load` and `can_see_requests` say what the reader of the page may do and see.
    """

    hostname: str
    status: str
    tone: Literal["good", "idle", "busy", "bad"]
    about: tuple[Fact, ...]
    cards: tuple[Card, ...]
    chats: tuple[str, ...]
    no_chat: str
    loadable: tuple[str, ...]
    can_load: bool
    can_see_requests: bool
    requests: tuple[Request, ...]
    troubles: tuple[Trouble, ...]
    host: tuple[Fact, ...]
    notes: tuple[str, ...]
    harnesses: tuple[str, ...]


def view_of(facts: PageFacts) -> View:
    """The page for these facts."""
    cards = _cards(facts.health, facts.models)
    serving = tuple(card.id for card in cards if card.can_chat)
    can_chat, can_see_requests = "inference" in facts.scopes, "metrics" in facts.scopes
    events = facts.events if can_see_requests else ()
    return View(
        hostname=facts.hostname,
        status=facts.status if facts.not_ready is NotReady.DRAINING else _status(cards),
        tone=_tone(facts.not_ready, cards),
        about=tuple(_about(facts)),
        cards=cards,
        chats=(*serving, *sorted(set(facts.on_demand).difference(serving))) if can_chat else (),
        no_chat=_no_chat(cards) if can_chat else "This key lacks the scope inference, so it may not chat",
        loadable=tuple(sorted({*facts.configured, *facts.on_demand}.difference(card.id for card in cards))),
        can_load="admin" in facts.scopes,
        can_see_requests=can_see_requests,
        requests=requests_of(events, now_s=facts.now_s),
        troubles=troubles_of(events, now_s=facts.now_s),
        host=tuple(_host_facts(facts.health, facts.devices)),
        notes=tuple(_notes(facts.health)),
        harnesses=facts.harnesses,
    )


def _status(cards: Sequence[Card]) -> str:
    """`2 models serving, 1 loading`."""
    counts = Counter(card.state for card in cards)
    serving = counts.pop(ModelState.SERVING, 0)
    others = [f"{counts[state]} {state}" for state in ModelState if counts[state]]
    return ", ".join([f"{counted(serving, 'model') if serving else 'no model'} serving", *others])


def _no_chat(cards: Iterable[Card]) -> str:
    """Why there is no model to chat with, and what a person can do."""
    if any(card.state in {ModelState.LOADING, ModelState.WAITING} for card in cards):
        return "The chat opens when the model has loaded"
    return "Load a model to chat with it"


def _tone(not_ready: NotReady | None, cards: Iterable[Card]) -> Literal["good", "idle", "busy", "bad"]:
    if not_ready is NotReady.NO_SERVABLE_MODEL:
        return "bad"
    if not_ready is not None:
        return "busy"
    states = {card.state for card in cards}
    if states - {ModelState.SERVING, ModelState.FAILED}:
        return "busy"
    return "good" if ModelState.SERVING in states else "idle"


def _about(facts: PageFacts) -> Iterator[Fact]:
    yield Fact(name="Up for", value=duration(facts.health.uptime_secs))
    if facts.version:
        yield Fact(name="Version", value=facts.version)


# ---------------------------------------------------------------------------------------------------------- models


def _cards(health: Health, models: Iterable[ModelInfo]) -> tuple[Card, ...]:
    """A card for each model, by state and id. A model that has several states at once has the card of the liveliest."""
    loads = {load.id: load for load in health.models}
    found: dict[str, Card] = {}
    for card in (
        *(_resident(model, loads.get(model.id)) for model in models),
        *map(_loading, health.loading),
        *map(_unloading, health.unloading),
        *(_broken(failed, ModelState.LOST) for failed in health.lost),
        *(_broken(failed, ModelState.FAILED) for failed in _failed(health)),
        *_waiting(health.activation),
    ):
        found.setdefault(card.id, card)
    return tuple(sorted(found.values(), key=lambda card: (_RANK[card.state], card.id)))


def _failed(health: Health) -> tuple[FailedLoad, ...]:
    after_reload = () if health.reload is UNSET else health.reload.failed
    return (*health.activation.failed, *after_reload)


def _resident(model: ModelInfo, load: ModelLoad | None) -> Card:
    is_loaded = model.status is ModelStatus.LOADED
    unservable = model.servable is not None and not model.servable.ok
    words = "" if is_loaded else "the engine died and is started again"
    return Card(
        id=model.id,
        state=ModelState.SERVING if is_loaded else ModelState.RECOVERING,
        words=words,
        facts=tuple(_model_facts(model, load)),
        error=(model.servable.detail or model.servable.reason or "") if unservable and model.servable else "",
        can_chat="text" in model.capabilities or not model.capabilities,
        action="unload",
    )


def _model_facts(model: ModelInfo, load: ModelLoad | None) -> Iterator[Fact]:
    if load is not None:
        yield _of_limit("Running", load.in_flight, load.max_in_flight)
        yield _of_limit("Waiting", load.queue_depth, load.max_queue_depth)
        yield Fact(name="Reply speed", value=speed(load.tok_s_decode))
        yield Fact(name="Prompt speed", value=speed(load.tok_s_prefill))
        if load.kv_budget_mb:
            taken = load.kv_budget_mb - load.kv_available_mb
            yield Fact(name="KV cells", value=mib_of(taken, load.kv_budget_mb), share=taken / load.kv_budget_mb)
    memory = load.engine_rss_mb if load is not None and load.engine_rss_mb else model.ram_used_mb
    if memory:
        yield Fact(name="Memory", value=format_size(memory * MIB))
    if model.vram_used_mb:
        yield Fact(name="GPU memory", value=format_size(model.vram_used_mb * MIB))
    yield Fact(name="Device", value=_device_names(model.devices))
    if model.limit is not None:
        yield Fact(name="Context", value=f"{model.limit.context} tokens")
    if load is not None:
        yield from _troubles(load)


def _troubles(load: ModelLoad) -> Iterator[Fact]:
    """What went wrong since the load. Nothing where all is well."""
    refused = (
        load.rejected_queue_full
        + load.rejected_timeout
        + load.rejected_per_principal
        + load.rejected_anon_yield
        + load.rejected_kv_timeout
        + load.rejected_kv_unservable
    )
    if refused:
        yield Fact(name="Refused", value=counted(refused, "request"))
    if load.engine_restarts:
        yield Fact(name="Restarts", value=str(load.engine_restarts))
    if load.last_engine_death:
        yield Fact(name="Last crash", value=load.last_engine_death)


def _loading(load: LoadingModel) -> Card:
    return Card(
        id=load.model_id,
        state=ModelState.LOADING,
        words=f"{describe(load.progress)}, {duration(load.elapsed_ms / 1000)} so far",
        fraction=load.progress.fraction,
        action="cancel",
    )


def _unloading(model: UnloadingModel) -> Card:
    since = f"{duration(model.elapsed_ms / 1000)} so far"
    running = f"{counted(model.running_requests, 'request')} still running, " if model.running_requests else ""
    overdue = ", longer than this may take: its memory may still be taken" if model.is_overdue else ""
    return Card(id=model.model_id, state=ModelState.UNLOADING, words=f"{running}{since}{overdue}")


def _broken(failed: FailedLoad, state: ModelState) -> Card:
    words = "did not load" if state is ModelState.FAILED else "given up after its engine had died again and again"
    return Card(id=failed.model_id, state=state, words=words, error=failed.error, action="load")


def _waiting(activation: ActivationSnapshot) -> Iterator[Card]:
    deferred = {} if activation.deferred is UNSET else {entry.model_id: entry for entry in activation.deferred}
    in_progress = () if activation.in_progress is None else (activation.in_progress,)
    for model_id in (*activation.pending, *in_progress):
        entry = deferred.get(model_id)
        words = "waits for its turn to load" if entry is None else f"next try in {duration(entry.next_try_secs)}"
        yield Card(
            id=model_id, state=ModelState.WAITING, words=words, error="" if entry is None else entry.error, action=None
        )


# ------------------------------------------------------------------------------------------------------------ host


def _host_facts(health: Health, devices: Iterable[Device]) -> Iterator[Fact]:
    if health.memory is not UNSET:
        yield from _memory_facts(health.memory)
    if health.cpus is not UNSET:
        yield _cpu_fact(health.cpus)
    names = {device.index: device.name for device in devices}
    for reading in health.devices:
        yield _gpu_fact(reading, names.get(reading.index, ""))


def _memory_facts(memory: HostMemory) -> Iterator[Fact]:
    if memory.available_mb is not None:
        yield _used("Memory", memory.total_mb - memory.available_mb, memory.total_mb)
    if memory.limit_mb and memory.limit_available_mb is not None:
        yield _used("Memory limit", memory.limit_mb - memory.limit_available_mb, memory.limit_mb)


def _cpu_fact(cpus: HostCpus) -> Fact:
    usable = min(cpus.usable, cpus.limit) if cpus.limit else cpus.usable
    cpu_count = f"{usable:g} CPU{'' if usable == 1 else 's'}"
    if cpus.load_1m is None:
        return Fact(name="Processor", value=cpu_count)
    return Fact(
        name="Processor", value=f"load {cpus.load_1m:.1f} on {cpu_count}", share=min(1.0, cpus.load_1m / (usable or 1))
    )


def _gpu_fact(reading: DeviceHealth, name: str) -> Fact:
    total = reading.vram_used_mb + reading.vram_free_mb
    return Fact(
        name=f"GPU {reading.index}{f' · {name}' if name else ''}",
        value=f"{mib_of(reading.vram_used_mb, total)}, {reading.utilization_pct} % busy, {reading.temp_c} °C",
        share=reading.vram_used_mb / total if total else None,
    )


def _notes(health: Health) -> Iterator[str]:
    """Sentences about the configuration that an operator should know."""
    if health.access is not UNSET:
        yield f"Access: {health.access.summary}."
    if health.reload is UNSET:
        return
    if health.reload.error is not None:
        yield f"The last reload of the configuration was refused: {health.reload.error}"
    if health.reload.needs_restart:
        yield f"These changes of the configuration need a restart: {', '.join(health.reload.needs_restart)}."


# ----------------------------------------------------------------------------------------------------------- words


def _of_limit(name: str, count: int, most: int) -> Fact:
    return Fact(name=name, value=f"{count} of {most}" if most else str(count), share=count / most if most else None)


def _used(name: str, used_mb: int, total_mb: int) -> Fact:
    used_mb = max(0, used_mb)
    return Fact(name=name, value=f"{mib_of(used_mb, total_mb)} in use", share=min(1.0, used_mb / (total_mb or 1)))


def _device_names(devices: tuple[int, ...]) -> str:
    return f"GPU {', '.join(map(str, devices))}" if devices else "CPU"
