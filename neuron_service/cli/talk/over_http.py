"""A speaker whose model a daemon has loaded, asked by its chat completions."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec

from neuron_service.cli.talk.pieces import Ended, Order, Piece, Said, SpeakerFailed, Thought
from neuron_service.client.client import Client
from neuron_service.client.event_lines import ServerSentEvent
from neuron_service.client.problem import DaemonProblem
from neuron_service.client.translation import NOT_NEURON

__all__ = ("OverHttp", "pieces_of")

_PATH: Final = "/v1/chat/completions"
_SILENCE_LIMIT_S: Final = 600.0
"""A daemon may load the model or read a long prompt before it says anything."""


class OverHttp:
    """See `Speaker`. `model_id` is any name under which the daemon knows the model."""

    def __init__(self, client: Client, model_id: str) -> None:
        self._client = client
        self.model_id = model_id
        self.place = f"at {client.address}"

    @contextmanager
    def answer(self, order: Order) -> Iterator[Iterator[Piece]]:
        try:
            with self._client.stream("POST", _PATH, _body(self.model_id, order), silence_s=_SILENCE_LIMIT_S) as events:
                yield pieces_of(events)
        except DaemonProblem as problem:
            raise SpeakerFailed(str(problem), exit_status=problem.exit_status) from problem


def _body(model_id: str, order: Order) -> dict[str, object]:
    body: dict[str, object] = {
        "model": model_id,
        "messages": [{"role": each.role, "content": each.content} for each in order.messages],
        "stream": True,
    }
    body |= {
        name: value for name in ("max_tokens", "temperature", "seed") if (value := getattr(order, name)) is not None
    }
    return body | ({"ignore_eos": True} if order.ignore_eos else {})


def pieces_of(events: Iterator[ServerSentEvent]) -> Iterator[Piece]:
    """The pieces of a streamed chat completion. Raises `SpeakerFailed` for one that ended with an error, or never."""
    try:
        yield from _pieces(events)
    except NOT_NEURON as error:
        raise SpeakerFailed("the daemon's reply is not one of a neuron", exit_status=os.EX_PROTOCOL) from error


def _pieces(events: Iterator[ServerSentEvent]) -> Iterator[Piece]:
    ended: Ended | None = None  # held back, because an error may still come behind it
    for event in events:
        if event.data == "[DONE]" and ended is not None:
            yield ended
            return
        chunk = json.loads(event.data)
        if (error := chunk.get("error")) is not None:
            message = error.get("message") if isinstance(error, dict) else None
            raise SpeakerFailed(str(message or "the reply ended with an error"))
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            if text := delta.get("reasoning_content"):
                yield Thought(str(text))
            if text := delta.get("content"):
                yield Said(str(text))
            if (reason := choice.get("finish_reason")) and (usage := chunk.get("usage")):
                ended = _ended(str(reason), usage)
    raise SpeakerFailed("the daemon ended the reply before it was whole; try again", exit_status=os.EX_TEMPFAIL)


def _ended(reason: str, usage: dict[str, Any]) -> Ended:
    timing = usage.get("helexa_timing") or {}
    numbers = {
        "prompt_tokens": usage.get("prompt_tokens", 0),
        "completion_tokens": usage.get("completion_tokens", 0),
        "cached_tokens": (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
        "prefill_ms": timing.get("prefill_ms", 0),
        "decode_ms": timing.get("decode_ms", 0),
    }
    return msgspec.convert({"reason": reason, **numbers}, Ended)
