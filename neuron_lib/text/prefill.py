"""A last message of the assistant that is continued instead of answered. Pure.

A template closes each message. So the message is rendered with a sentinel at the end of its text, and the prompt is cut
there. This works with every template that shows the text as it is, whatever the template writes behind it.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from neuron_lib.errors import InvalidRequest
from neuron_lib.text.template_facts import REASONING_KEYS

__all__ = ("Prefill", "prefill_of")


@dataclass(slots=True, frozen=True)
class Prefill:
    """The beginning of a reply. Immutable; lives as long as the request.

    `message` is the last message with the sentinel in it. `text` is what the reply goes on with: the end of an answer,
    or of reasoning if `is_reasoning`.
    """

    message: Mapping[str, Any]
    text: str
    is_reasoning: bool
    sentinel: str

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Self:
        """The prefill of a message of the assistant. A message without a text is continued in its reasoning."""
        sentinel = f"zq{secrets.token_hex(12)}qz"
        content = message.get("content")
        match content:
            case str() if content:
                return cls({**message, "content": content + sentinel}, content, is_reasoning=False, sentinel=sentinel)
            case [*parts] if (place := _last_text(parts)) is not None:
                part = parts[place]
                text = part if isinstance(part, str) else str(part["text"])
                marked = text + sentinel if isinstance(part, str) else {**part, "text": text + sentinel}
                parts[place:] = [marked]
                return cls({**message, "content": parts}, text, is_reasoning=False, sentinel=sentinel)
            case [*before, {"type": "thinking", "thinking": str(text)} as part] if text:
                parts = [*before, {**part, "thinking": text + sentinel}]
                return cls({**message, "content": parts}, text, is_reasoning=True, sentinel=sentinel)
            case _:
                pass
        for key in REASONING_KEYS:
            thought = message.get(key)
            if isinstance(thought, str) and thought:
                return cls({**message, key: thought + sentinel}, thought, is_reasoning=True, sentinel=sentinel)
        return cls({**message, "content": sentinel}, "", is_reasoning=False, sentinel=sentinel)

    def without_reasoning(self) -> Self:
        """The prefill of the same message as a message without any text."""
        kept = {key: value for key, value in self.message.items() if key not in REASONING_KEYS}
        return self.of({**kept, "content": ""})

    def cut(self, prompt: str) -> str:
        """The rendered prompt up to the end of the text. Raises `InvalidRequest` if the prompt does not show it."""
        before, sentinel, _ = prompt.rpartition(self.sentinel)
        if not sentinel:
            what = "reasoning" if self.is_reasoning else "text"
            message = (
                f"messages: the chat template does not show the {what} of the last message, it cannot be continued"
            )
            raise InvalidRequest(message, param="messages")
        return before.replace(self.sentinel, "")


def prefill_of(messages: Sequence[Mapping[str, Any]], *, continues: bool | None) -> Prefill | None:
    """The message that the reply goes on with, None for a reply that is a new message.

    `continues` is `Chat.continue_final_message`. If it is None, a last message of the assistant is continued, unless it
    calls tools. Raises `InvalidRequest` for two messages of the assistant at the end. If it is true, also for a last
    message that is not the assistant's, or that calls tools.
    """
    last = messages[-1] if messages else {}
    is_assistant = last.get("role") == "assistant"
    has_called = bool(last.get("tool_calls") or last.get("function_call"))
    if continues and not is_assistant:
        raise _refusal("the last message is not the assistant's")
    if continues and has_called:
        raise _refusal("the last message calls tools, so it is complete")
    if continues is False or not is_assistant or has_called:
        return None
    if len(messages) > 1 and messages[-2].get("role") == "assistant":
        text = "messages: there are two messages of the assistant at the end, of which only one can be continued"
        raise InvalidRequest(text, param="messages")
    return Prefill.of(last)


def _refusal(problem: str) -> InvalidRequest:
    return InvalidRequest(f"continue_final_message: {problem}", param="continue_final_message")


def _last_text(parts: Sequence[Any]) -> int | None:
    """The place of the last part with a text; None if there is none behind the last part of reasoning."""
    for place in range(len(parts) - 1, -1, -1):
        match parts[place]:
            case str():
                return place
            case {"type": "thinking"}:
                return None
            case {"text": str()}:
                return place
            case _:
                pass
    return None
