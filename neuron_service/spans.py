"""The spans of one request, by OpenTelemetry's conventions for HTTP and for generative models. Pure.

A span is planned when its request has ended, from what is known then. So nothing is done for a token. No span has text
of a client or of a model, except the path and the id that the client gave to its request.
"""

from collections.abc import Mapping
from typing import Final, TypeAlias

from msgspec import Struct

from neuron_lib.shown import clip
from neuron_lib.types import EndedReply
from neuron_service.dialects import DIALECTS
from neuron_service.exchange import Exchange

__all__ = ("Attributes", "PlannedSpan", "plan_spans")

Attributes: TypeAlias = Mapping[str, str | int | float | bool | tuple[str, ...]]

_S: Final = 1_000_000_000
_MS: Final = 1_000_000
_LEAST_FAILURE: Final = 500
_ROUTES: Final = frozenset(path for dialect in DIALECTS for path in dialect.paths) | {"/models/load", "/models/unload"}
"""The paths that a span may be named for. Other paths are a client's, and there is no end of them."""
_OPERATIONS: Final = {
    "/chat/completions": "chat",
    "/responses": "chat",
    "/messages": "chat",
    "/completions": "text_completion",
    "/completion": "text_completion",
    "/embeddings": "embeddings",
}
"""The names of OpenTelemetry's conventions for what a model is asked for, by path without `/v1`."""


class PlannedSpan(Struct, frozen=True, kw_only=True):
    """A span that has ended. Times are nanoseconds of Unix time. `error` is the kind of its failure, "" for none."""

    name: str
    begin_ns: int
    end_ns: int
    attributes: Attributes = {}
    error: str = ""
    children: tuple["PlannedSpan", ...] = ()


def plan_spans(exchange: Exchange, *, begin_ns: int, end_ns: int) -> PlannedSpan | None:
    """The span of an exchange that has ended, with those of the model's reply below it.

    None for a question that is asked again and again, unless it belongs to a trace.
    """
    if exchange.is_question and exchange.trace is None:
        return None
    route = exchange.path if exchange.path in _ROUTES else None
    ended = exchange.ended
    return PlannedSpan(
        name=f"{exchange.method} {route}" if route else exchange.method,
        begin_ns=begin_ns,
        end_ns=end_ns,
        attributes=_of_http(exchange, route) | ({} if ended is None else _of_reply(ended, exchange.path)),
        error=_error(exchange),
        children=() if ended is None else _phases(ended, begin_ns=begin_ns, end_ns=end_ns),
    )


def _of_http(exchange: Exchange, route: str | None) -> dict[str, str | int | float | bool | tuple[str, ...]]:
    return {
        "http.request.method": clip(exchange.method),
        "url.path": clip(exchange.path),
        **({"http.route": route} if route else {}),
        **({} if exchange.status is None else {"http.response.status_code": exchange.status}),
        **({} if exchange.principal is None else {"enduser.pseudo.id": exchange.principal.pseudonym}),
        "neuron.request_id": exchange.request_id,
    }


def _of_reply(ended: EndedReply, path: str) -> dict[str, str | int | float | bool | tuple[str, ...]]:
    usage, operation = ended.usage, _OPERATIONS.get(path.removeprefix("/v1"))
    return {
        "gen_ai.provider.name": "neuron",
        **({"gen_ai.operation.name": operation} if operation else {}),
        "gen_ai.request.model": ended.model_id,
        "gen_ai.response.finish_reasons": tuple(reason.value for reason in ended.finish_reasons),
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        **({} if ended.first_event_s is None else {"gen_ai.response.time_to_first_chunk": ended.first_event_s}),
        "neuron.retried": ended.retried,
    }


def _error(exchange: Exchange) -> str:
    """The conventions leave a refusal whose client is to blame without an error, and so is a client that has left."""
    if exchange.ended is not None and exchange.ended.error is not None:
        return exchange.ended.error
    if exchange.status is None or exchange.status < _LEAST_FAILURE:
        return ""
    return exchange.refusal or str(exchange.status)


def _phases(ended: EndedReply, *, begin_ns: int, end_ns: int) -> tuple[PlannedSpan, ...]:
    """What the request waited for, one after the other. The reply ends with the request."""
    asked_ns = max(begin_ns, end_ns - round(ended.total_s * _S))
    admitted_ns = min(asked_ns + round(ended.queue_s * _S), end_ns)
    if ended.usage.prefill_ms:
        read_ns = admitted_ns + ended.usage.prefill_ms * _MS
    elif ended.first_event_s is not None:
        read_ns = asked_ns + round(ended.first_event_s * _S)
    else:
        read_ns = end_ns
    read_ns = max(admitted_ns, min(read_ns, end_ns))
    times = {"queue": (asked_ns, admitted_ns), "prefill": (admitted_ns, read_ns), "decode": (read_ns, end_ns)}
    return tuple(PlannedSpan(name=name, begin_ns=begin, end_ns=end) for name, (begin, end) in times.items())
