"""A snapshot as metrics of Prometheus: their names, help and labels. Pure.

Times are seconds and sizes bytes, whatever the API of the host says. A label has the id of a model that is or was
resident, the number of a device, or a name of this project, and never a text of a request.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate, zip_longest
from typing import Final, NamedTuple, TypeVar

from msgspec.structs import fields
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from neuron_lib.types import (
    Distribution,
    EngineMeasures,
    FinishReason,
    ModelLoad,
    ModelStatus,
    ReplyOutcome,
    ResidencyCounts,
)
from neuron_service.metrics.snapshot import Snapshot
from neuron_service.tallies import NO_REPLIES, ModelCounts, ReplyCount, ReplyMeasure

__all__ = ("families",)

_Labels = TypeVar("_Labels", bound=tuple[str, ...])
"""The values of the labels of a series."""

_Family = TypeVar("_Family", GaugeMetricFamily, CounterMetricFamily)

_MIB: Final = 1 << 20
_REJECTED: Final = "rejected_"
_OUTCOMES: Final = (*FinishReason, ReplyOutcome.ABANDONED, ReplyOutcome.FAILED)


class _OfLoad(NamedTuple):
    name: str
    text: str
    value: Callable[[ModelLoad], float]


_LOAD_GAUGES: Final = (
    _OfLoad("requests_in_flight", "Seats that are taken by requests that run.", lambda load: load.in_flight),
    _OfLoad("requests_in_flight_limit", "Seats of the model.", lambda load: load.max_in_flight),
    _OfLoad("requests_waiting", "Requests that wait or are being prepared.", lambda load: load.queue_depth),
    _OfLoad("requests_waiting_limit", "How many requests may wait.", lambda load: load.max_queue_depth),
    _OfLoad(
        "anonymous_requests_in_flight", "Seats that are taken by anonymous requests.", lambda load: load.anon_in_flight
    ),
    _OfLoad(
        "anonymous_requests_in_flight_limit",
        "Seats that anonymous requests may take.",
        lambda load: load.anon_max_in_flight,
    ),
    _OfLoad("kv_budget_bytes", "Budget of the attention cache, 0 if none.", lambda load: load.kv_budget_mb * _MIB),
    _OfLoad("kv_available_bytes", "What is left of the budget.", lambda load: load.kv_available_mb * _MIB),
    _OfLoad(
        "engine_resident_memory_bytes",
        "Resident memory of the process of the engine, 0 if unknown.",
        lambda load: load.engine_rss_mb * _MIB,
    ),
)

_REPLY_COUNTS: Final[Mapping[ReplyCount, tuple[str, str]]] = {
    ReplyCount.RETRIED: ("requests_retried", "Requests begun once more because an engine died."),
    ReplyCount.PROMPT_TOKENS: ("prompt_tokens", "Tokens of prompts, cached ones included."),
    ReplyCount.CACHED_TOKENS: ("cached_prompt_tokens", "Tokens of prompts that were not computed again."),
    ReplyCount.COMPLETION_TOKENS: ("completion_tokens", "Tokens of replies, reasoning included."),
    ReplyCount.REASONING_TOKENS: ("reasoning_tokens", "Tokens of replies that are reasoning."),
}

_REPLY_MEASURES: Final[Mapping[ReplyMeasure, tuple[str, str]]] = {
    ReplyMeasure.FIRST_TOKEN_S: (
        "first_token_seconds",
        "From the arrival of a request to the first part of its streamed reply.",
    ),
    ReplyMeasure.QUEUE_S: ("request_queue_seconds", "From the arrival of a request to its seat."),
    ReplyMeasure.PREFILL_S: ("request_prefill_seconds", "Steps that read the prompt of a finished request."),
    ReplyMeasure.DECODE_S: ("request_decode_seconds", "Steps that wrote the reply of a finished request."),
    ReplyMeasure.TOTAL_S: ("request_seconds", "From the arrival of a finished request to its end."),
    ReplyMeasure.TOKEN_S: ("request_token_seconds", "Mean time of a token of a finished reply, without the first."),
    ReplyMeasure.PROMPT_SIZE: ("request_prompt_tokens", "Tokens of the prompt of a finished request."),
    ReplyMeasure.COMPLETION_SIZE: ("request_completion_tokens", "Tokens of a finished reply."),
}

_MEMORY: Final = (
    ("host_memory_bytes", "Memory of the host."),
    ("host_memory_available_bytes", "Memory of the host that is free without swapping."),
    ("host_memory_limit_bytes", "Memory that the control groups allow."),
    ("host_memory_limit_available_bytes", "What is left of the memory that the control groups allow."),
)
_CPUS: Final = (
    ("host_cpus", "CPUs that are online."),
    ("host_cpus_usable", "CPUs that the service may run on."),
    ("host_cpus_limit", "CPUs that the control groups allow on average."),
    ("host_load", "Processes of the host that ran or waited for a CPU, over the last minute."),
)


def families(snapshot: Snapshot) -> Iterator[Metric]:
    """All metrics of the host, in an order that stays. Every name begins with `neuron_`."""
    yield from _host(snapshot)
    yield from _models(snapshot)
    yield from _engines(snapshot.measures)
    yield from _replies(snapshot)
    yield from _loads(snapshot)
    yield from _residency(snapshot.residency)
    yield from _devices(snapshot)
    yield from _hardware(snapshot)


def _host(snapshot: Snapshot) -> Iterator[Metric]:
    if (version := snapshot.version) is not None:
        labels = {"version": version.package_version, "git_sha": version.git_sha}
        yield InfoMetricFamily("neuron_build", "What is running.", value=labels)
    yield GaugeMetricFamily("neuron_ready", "Whether requests should be sent here.", value=snapshot.is_ready)
    yield _histogram(
        "event_loop_lag_seconds", "How late the event loop is.", {(): snapshot.counts.loop_lag_s}, labels=()
    )
    yield _counter(
        "http_requests", "HTTP requests that have ended.", snapshot.counts.answers, labels=("method", "path", "status")
    )
    answers_s = {(path,): distribution for path, distribution in snapshot.counts.answers_s.items()}
    yield _histogram("http_get_seconds", "Answers to GET, from head to end.", answers_s, labels=("path",))
    refusals = {(str(status), code): count for (status, code), count in snapshot.refusals.items()}
    yield _counter("refusals", "Requests that were answered with an error.", refusals, labels=("status", "code"))


def _models(snapshot: Snapshot) -> Iterator[Metric]:
    statuses = [model.status for model in snapshot.models]
    states = {
        **{str(status): statuses.count(status) for status in ModelStatus},
        "loading": snapshot.loading,
        "unloading": snapshot.unloading,
        "lost": snapshot.lost,
    }
    yield _gauge("models", "Models by state.", {(state,): count for state, count in states.items()}, labels=("state",))
    activation = snapshot.activation
    defaults = {
        "pending": len(activation.pending) + (activation.in_progress is not None),
        "completed": len(activation.completed),
        "failed": len(activation.failed),
    }
    yield _gauge(
        "default_models",
        "Default models by what became of them.",
        {(state,): count for state, count in defaults.items()},
        labels=("state",),
    )
    servable = {(model.id,): model.servable is None or model.servable.ok for model in snapshot.models}
    yield _gauge("model_servable", "Whether an idle host could serve a minimal request.", servable)
    memory = {(model.id,): model.vram_used_mb * _MIB for model in snapshot.models if model.vram_used_mb is not None}
    yield _gauge("model_device_memory_bytes", "Device memory of the model, where known.", memory)
    for gauge in _LOAD_GAUGES:
        yield _gauge(gauge.name, gauge.text, {(load.id,): gauge.value(load) for load in snapshot.loads})
    reasons = [field.name for field in fields(ModelLoad) if field.name.startswith(_REJECTED)]
    rejected = {
        (load.id, reason.removeprefix(_REJECTED)): getattr(load, reason)
        for load in snapshot.loads
        for reason in reasons
    }
    yield _counter("requests_rejected", "Requests for which there was no room.", rejected, labels=("model", "reason"))
    restarts = {(load.id,): load.engine_restarts for load in snapshot.loads}
    yield _counter("engine_restarts", "Engines that were started because the one before died.", restarts)


def _engines(measures: Mapping[str, EngineMeasures]) -> Iterator[Metric]:
    told = {(model_id,): each for model_id, each in measures.items()}
    known = {labels: each for labels, each in told.items() if each.kv_cells}
    cells = "Cells of the attention cache, each for one token"
    yield _gauge("kv_cells", f"{cells}.", {labels: each.kv_cells for labels, each in known.items()})
    yield _gauge("kv_cells_held", f"{cells}: in use.", {labels: each.kv_cells_held for labels, each in known.items()})
    live = {labels: each.kv_cells_live for labels, each in known.items()}
    yield _gauge("kv_cells_live", f"{cells}: of requests that run.", live)
    gaps = {labels: each.token_gaps for labels, each in told.items()}
    yield _histogram("inter_token_seconds", "Between two arrivals of tokens of a reply, in the engine.", gaps)


def _replies(snapshot: Snapshot) -> Iterator[Metric]:
    resident = {load.id: NO_REPLIES for load in snapshot.loads}  # so that a rate is known from the first reply on
    models: dict[tuple[str, ...], ModelCounts] = {
        (model_id,): counts for model_id, counts in (resident | dict(snapshot.counts.models)).items()
    }
    outcomes = {
        (*labels, outcome): counts.outcomes.get(outcome, 0)
        for labels, counts in models.items()
        for outcome in _OUTCOMES
    }
    text = "Requests that got their seat and have ended: by finish reason, abandoned by their client, or failed."
    yield _counter("requests", text, outcomes, labels=("model", "outcome"))
    for count, (name, text) in _REPLY_COUNTS.items():
        yield _counter(name, text, {labels: counts.counts[count] for labels, counts in models.items()})
    for measure, (name, text) in _REPLY_MEASURES.items():
        yield _histogram(name, text, {labels: counts.measures[measure] for labels, counts in models.items()})


def _loads(snapshot: Snapshot) -> Iterator[Metric]:
    counts = snapshot.counts
    loads = {(str(outcome),): count for outcome, count in counts.loads.items()}
    yield _counter("loads", "Loads of models that have ended.", loads, labels=("outcome",))
    stages = {(str(stage),): distribution for stage, distribution in counts.stages_s.items()}
    yield _histogram("load_stage_seconds", "Stages of loads that succeeded.", stages, labels=("stage",))
    yield _counter(
        "fetched_bytes", "Bytes of models that came into the cache.", {(): snapshot.fetched_bytes}, labels=()
    )


def _residency(counts: ResidencyCounts) -> Iterator[Metric]:
    yield _gauge("loads_waiting", "Loads that wait for room.", {(): counts.waiting_loads}, labels=())
    unloads = {("room",): counts.unloaded_for_room, ("idle",): counts.unloaded_idle}
    yield _counter("unloads", "Models that the host has unloaded by itself.", unloads, labels=("cause",))


def _devices(snapshot: Snapshot) -> Iterator[Metric]:
    info = InfoMetricFamily("neuron_device", "The GPUs.", labels=("device",))
    for device in snapshot.devices:
        info.add_metric((str(device.index),), {"name": device.name, "compute_capability": device.compute_capability})
    yield info
    readings = {(str(reading.index),): reading for reading in snapshot.readings}
    used = {labels: reading.vram_used_mb * _MIB for labels, reading in readings.items()}
    free = {labels: reading.vram_free_mb * _MIB for labels, reading in readings.items()}
    busy = {labels: reading.utilization_pct / 100 for labels, reading in readings.items()}
    warm = {labels: reading.temp_c for labels, reading in readings.items()}
    of_device = ("device",)
    yield _gauge("device_memory_used_bytes", "Device memory that all programs use.", used, labels=of_device)
    yield _gauge("device_memory_free_bytes", "Device memory that is free.", free, labels=of_device)
    yield _gauge("device_utilization_ratio", "The part of the time that the device works.", busy, labels=of_device)
    yield _gauge("device_temperature_celsius", "Temperature of the device.", warm, labels=of_device)


def _hardware(snapshot: Snapshot) -> Iterator[Metric]:
    memory, cpus = snapshot.memory, snapshot.cpus
    mib = (memory.total_mb, memory.available_mb, memory.limit_mb, memory.limit_available_mb) if memory else ()
    for (name, text), value in zip_longest(_MEMORY, mib):
        yield _gauge(name, text, {} if value is None else {(): value * _MIB}, labels=())
    numbers = (cpus.online, cpus.usable, cpus.limit, cpus.load_1m) if cpus else ()
    for (name, text), number in zip_longest(_CPUS, numbers):
        yield _gauge(name, text, {} if number is None else {(): number}, labels=())


def _gauge(
    name: str, text: str, values: Mapping[_Labels, float], *, labels: Iterable[str] = ("model",)
) -> GaugeMetricFamily:
    return _with_values(GaugeMetricFamily(f"neuron_{name}", text, labels=tuple(labels)), values)


def _counter(
    name: str, text: str, values: Mapping[_Labels, float], *, labels: Iterable[str] = ("model",)
) -> CounterMetricFamily:
    return _with_values(CounterMetricFamily(f"neuron_{name}", text, labels=tuple(labels)), values)


def _with_values(family: _Family, values: Mapping[_Labels, float]) -> _Family:
    for label_values, value in values.items():
        family.add_metric(label_values, value)
    return family


def _histogram(
    name: str, text: str, values: Mapping[_Labels, Distribution], *, labels: Iterable[str] = ("model",)
) -> HistogramMetricFamily:
    family = HistogramMetricFamily(f"neuron_{name}", text, labels=tuple(labels))
    for label_values, distribution in values.items():
        bounds = (*map(floatToGoString, distribution.bounds), "+Inf")
        buckets = [*zip(bounds, accumulate(distribution.counts), strict=True)]
        family.add_metric(label_values, buckets, distribution.sum)
    return family
