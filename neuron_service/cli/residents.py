"""What `neuron ps` says about a daemon, from the answers of `/health` and `/models`. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from neuron_lib.sizes import format_size

__all__ = (
    "HEADINGS",
    "OTHER_HEADINGS",
    "RIGHT",
    "STATES",
    "Resident",
    "cells",
    "describe_host",
    "residents",
    "style",
    "to_json",
)

HEADINGS: Final = ("MODEL", "STATE", "RUNNING", "WAITING", "TOK/S", "KV", "MEMORY")
"""Of the models that serve."""
OTHER_HEADINGS: Final = ("MODEL", "STATE", "DETAIL")
"""Of the models that do not serve."""
RIGHT: Final = ("RUNNING", "WAITING", "TOK/S", "KV", "MEMORY")
_MIB: Final = 1 << 20
_TOO_MANY: Final = 1 << 63
STATES: Final[Mapping[str, str]] = {
    "loaded": "good",
    "loading": "busy",
    "recovering": "warning",
    "deferred": "warning",
    "unloading": "warning",
    "pending": "dim",
    "failed": "bad",
    "lost": "bad",
}


@dataclass(slots=True, frozen=True, kw_only=True)
class Resident:
    """A model of a daemon: one that serves, that is on its way in or out, or that could not be loaded.

    `state` is `loaded`, `recovering`, `loading`, `unloading`, `pending`, `deferred`, `failed` or `lost`.
    `detail` says more about the state, or is empty. Numbers are None where the daemon gives none. `kv_used` is 0 to 1,
    and `memory_bytes` is what the engine takes on the host and on GPUs.
    """

    id: str
    state: str
    detail: str = ""
    running: int | None = None
    max_running: int | None = None
    waiting: int | None = None
    tokens_per_s: float | None = None
    kv_used: float | None = None
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        """Raises `TypeError` and `ValueError` for values that no neuron gives."""
        if not all(isinstance(each, str) for each in (self.id, self.state, self.detail)):
            raise TypeError(f"no text: {self.id!r}, {self.state!r} or {self.detail!r}")
        numbers = (self.running, self.max_running, self.waiting, self.tokens_per_s, self.kv_used, self.memory_bytes)
        if not all(each is None or abs(each) < _TOO_MANY for each in numbers):
            raise ValueError(f"no count: one of {numbers}")

    @property
    def serves(self) -> bool:
        """Whether the model takes requests."""
        return self.running is not None


def residents(health: Mapping[str, Any], models: Sequence[Mapping[str, Any]]) -> list[Resident]:
    """The models, those first that serve. Raises an error of `NOT_NEURON` for other answers."""
    known = {model["id"]: model for model in models}
    found = [_serving(load, known.get(load["id"], {})) for load in health["models"]]
    found += [_loading(each) for each in health.get("loading", ())]
    found += [_unloading(each) for each in health.get("unloading", ())]
    found += _activation(health["activation"], {each.id for each in found})
    found += [Resident(id=each["model_id"], state="lost", detail=each["error"]) for each in health.get("lost", ())]
    return found


def _serving(load: Mapping[str, Any], model: Mapping[str, Any]) -> Resident:
    budget, rate = load.get("kv_budget_mb", 0), load.get("tok_s_decode", 0.0)
    memory_mb = model.get("ram_used_mb", load.get("engine_rss_mb", 0)) + model.get("vram_used_mb", 0)
    restarts, death = load.get("engine_restarts", 0), load.get("last_engine_death", "")
    servable = model.get("servable", {"ok": True})
    detail = f"{_count(restarts, 'restart', 'restarts')}, the last one after: {death}" if restarts else ""
    return Resident(
        id=load["id"],
        state=model.get("status", "loaded"),
        detail=detail if servable.get("ok", True) else servable.get("detail", "cannot serve"),
        running=load["in_flight"],
        max_running=load.get("max_in_flight"),
        waiting=load["queue_depth"],
        tokens_per_s=rate or None,
        kv_used=1 - load.get("kv_available_mb", 0) / budget if budget else None,
        memory_bytes=memory_mb * _MIB or None,
    )


def _loading(load: Mapping[str, Any]) -> Resident:
    from neuron_service.cli.load_words import describe_load

    return Resident(id=load["model_id"], state="loading", detail=describe_load(load["progress"]))


def _unloading(unload: Mapping[str, Any]) -> Resident:
    replies = unload["running_requests"]
    waits = f"waits for {_count(replies, 'reply', 'replies')}" if replies else ""
    late = "takes longer than it may" if unload.get("is_overdue") else ""
    return Resident(id=unload["model_id"], state="unloading", detail=", ".join(filter(None, (waits, late))))


def _activation(activation: Mapping[str, Any], named: set[str]) -> Iterator[Resident]:
    """The default models that are still to be loaded, or could not be loaded."""
    deferred = {each["model_id"]: each for each in activation.get("deferred", ())}
    for each in deferred.values():
        if each["model_id"] not in named:
            detail = f"next try in {_duration(each['next_try_secs'])}: {each['error']}"
            yield Resident(id=each["model_id"], state="deferred", detail=detail)
    for model_id in activation["pending"]:
        if model_id not in named and model_id not in deferred:
            yield Resident(id=model_id, state="pending")
    for each in activation["failed"]:
        if each["model_id"] not in named:
            yield Resident(id=each["model_id"], state="failed", detail=each["error"])


def cells(resident: Resident) -> tuple[str, ...]:
    """The cells of a model that serves, in the order of `HEADINGS`."""
    of = f" of {resident.max_running}" if resident.max_running else ""
    return (
        resident.id,
        resident.state,
        "" if resident.running is None else f"{resident.running}{of}",
        "" if resident.waiting is None else str(resident.waiting),
        "" if resident.tokens_per_s is None else f"{resident.tokens_per_s:.1f}",
        "" if resident.kv_used is None else f"{resident.kv_used:.0%}".replace("%", " %"),
        "" if resident.memory_bytes is None else format_size(resident.memory_bytes),
    )


def style(resident: Resident) -> str:
    """The style of the state: one of `screen.STYLES`."""
    return STATES.get(resident.state, "busy")


def to_json(resident: Resident) -> dict[str, Any]:
    """The model for programs. Numbers that are not known, and an empty detail, are left out."""
    return {name: value for name, value in asdict(resident).items() if value not in {None, ""}}


def describe_host(health: Mapping[str, Any]) -> list[str]:
    """A line about the host's memory, and one about each GPU."""
    lines = []
    memory = health.get("memory", {})
    if (free := memory.get("available_mb")) is not None:
        lines.append(f"memory  {format_size(free * _MIB)} of {format_size(memory['total_mb'] * _MIB)} free")
    for device in health.get("devices", ()):
        total = device["vram_used_mb"] + device["vram_free_mb"]
        free = f"{format_size(device['vram_free_mb'] * _MIB)} of {format_size(total * _MIB)} free"
        lines.append(f"gpu{device['index']}    {free}, {device['utilization_pct']} % busy, {device['temp_c']} °C")
    return lines


def _count(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"


def _duration(seconds: int) -> str:
    return f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
