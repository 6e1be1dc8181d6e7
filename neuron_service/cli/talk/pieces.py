"""What a reply consists of, and what a speaker is. A speaker is a model that answers, wherever the model runs."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Literal, Protocol, TypeAlias

from msgspec import Struct

__all__ = ("Ended", "Message", "Order", "Piece", "Said", "Speaker", "SpeakerFailed", "Thought")


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Order(Struct, frozen=True, kw_only=True):
    """What is asked for: the next message after `messages`. None leaves a value to the model and the configuration.

    With `ignore_eos` the reply ends only after `max_tokens`, whatever the model wants.
    """

    messages: tuple[Message, ...]
    max_tokens: int | None = None
    temperature: float | None = None
    seed: int | None = None
    ignore_eos: bool = False


class Said(Struct, frozen=True):
    """More of the answer."""

    text: str


class Thought(Struct, frozen=True):
    """More of the model's reasoning."""

    text: str


class Ended(Struct, frozen=True, kw_only=True):
    """The end of a reply. `reason` is `stop` or `length`. The times are of the engine, in milliseconds."""

    reason: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    prefill_ms: int = 0
    decode_ms: int = 0


Piece: TypeAlias = Said | Thought | Ended


class SpeakerFailed(Exception):
    """The model gave no reply, or not the whole of it. The message is one sentence for a person.

    `exit_status` is that of a command which can do nothing else, one of sysexits.h.
    """

    def __init__(self, message: str, *, exit_status: int = 1) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class Speaker(Protocol):
    """A model that answers. `model_id` is its public id. `place` says in words where it runs.

    Any thread may call `answer`, and several at the same time.
    """

    @property
    def model_id(self) -> str: ...
    @property
    def place(self) -> str: ...

    def answer(self, order: Order) -> AbstractContextManager[Iterator[Piece]]:
        """The reply as a block. Leaving the block early, also by KeyboardInterrupt, ends the reply in the engine.

        The iterator gives any number of `Thought` and `Said`, and one `Ended`. Entering and iterating raise
        `SpeakerFailed`.
        """
        ...
