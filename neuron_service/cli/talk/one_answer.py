"""One prompt and its reply: `neuron run MODEL PROMPT`."""

import os
from typing import TextIO

import msgspec

from neuron_service.cli.talk.pieces import Order, Speaker
from neuron_service.cli.talk.screen import Reply, Screen, Shown, numbers_of, take_reply
from neuron_service.cli.terminal import INTERRUPTED

__all__ = ("answer_as_json", "answer_once")


def answer_once(speaker: Speaker, order: Order, screen: Screen, *, err: TextIO, wants_numbers: bool) -> int:
    """Show the reply to an order. Returns the exit status. Raises `SpeakerFailed`."""
    reply = take_reply(speaker, order, screen)
    if reply.ended is None:
        return INTERRUPTED
    if reply.ended.reason == "length":
        print("neuron: the reply was cut at its limit of tokens; --max-tokens gives it more", file=err)
    if wants_numbers:
        print(f"neuron: {numbers_of(reply.ended)}", file=err)
    return os.EX_OK


def answer_as_json(speaker: Speaker, order: Order, out: TextIO) -> int:
    """Print the whole reply as one JSON object. Returns the exit status. Raises `SpeakerFailed`."""
    shown = Shown()
    with speaker.answer(order) as pieces:
        for piece in pieces:
            shown.take(piece)
    out.write(f"{_as_json(speaker.model_id, shown.reply)}\n")
    return os.EX_OK


def _as_json(model_id: str, reply: Reply) -> str:
    ended = reply.ended
    assert ended is not None  # a reply that was not stopped
    usage = {name: getattr(ended, name) for name in ended.__struct_fields__ if name != "reason"}
    answer: dict[str, object] = {"model": model_id, "text": reply.text}
    if reply.reasoning:
        answer["reasoning"] = reply.reasoning
    return msgspec.json.encode(answer | {"finish_reason": ended.reason, "usage": usage}).decode()
