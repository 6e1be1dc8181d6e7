"""The messages of a conversation so far, and the text of the file that they are saved in. Pure."""

from dataclasses import dataclass, field
from typing import Final

import msgspec
from msgspec import Struct

from neuron_service.cli.talk.pieces import Message

__all__ = ("LARGEST_FILE_BYTES", "Conversation", "MalformedConversation", "decode_conversation", "encode_conversation")

LARGEST_FILE_BYTES: Final = 16 << 20


class MalformedConversation(ValueError):
    """A text is not that of a saved conversation. The message says what is wrong."""


@dataclass(slots=True)
class Conversation:
    """What was said. `system` is the system prompt. `turns` alternate: user, assistant, user, assistant."""

    system: str | None = None
    turns: list[Message] = field(default_factory=list)

    def with_user(self, text: str) -> tuple[Message, ...]:
        """All messages for a reply to `text`. Changes nothing: `add` does, when there is a reply."""
        return (*self.messages(), Message(role="user", content=text))

    def messages(self) -> tuple[Message, ...]:
        """All messages, with the system prompt in front."""
        first = () if self.system is None else (Message(role="system", content=self.system),)
        return (*first, *self.turns)

    def add(self, text: str, reply: str) -> None:
        """Keep what the user said and what the model answered."""
        self.turns += [Message(role="user", content=text), Message(role="assistant", content=reply)]

    def take_back(self) -> str | None:
        """Forget the last turn. Returns what the user had said; None if there is no turn."""
        if len(self.turns) < 2:
            return None
        user, _reply = self.turns[-2:]
        del self.turns[-2:]
        return user.content


class _Saved(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: str
    messages: tuple[Message, ...]


def encode_conversation(conversation: Conversation, *, model_id: str) -> bytes:
    """The file of a conversation: JSON with `model`, and `messages` in OpenAI's form."""
    text = msgspec.json.encode(_Saved(model=model_id, messages=conversation.messages()))
    return msgspec.json.format(text) + b"\n"


def decode_conversation(text: bytes) -> Conversation:
    """The conversation in the file of `encode_conversation`. Raises `MalformedConversation`."""
    try:
        saved = msgspec.json.decode(text, type=_Saved)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise MalformedConversation(f"it is no saved conversation: {error}") from error
    messages = list(saved.messages)
    system = messages.pop(0).content if messages and messages[0].role == "system" else None
    roles = [message.role for message in messages]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise MalformedConversation("it is no saved conversation: user and assistant do not take turns in it")
    return Conversation(system=system, turns=messages)
