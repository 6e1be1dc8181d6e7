"""Brings messages of clients into the form that a chat template can show. Pure: the template's facts decide."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

from neuron_lib.text.template_facts import REASONING_KEYS, TemplateFacts

__all__ = ("fit_messages", "has_text_arguments", "joined", "text_of")

logger: logging.Logger = logging.getLogger(__name__)

_SYSTEM: Final = frozenset(("system", "developer"))
_NO_ARGUMENTS: Final = frozenset(("", "null"))
_LONGEST_TYPE: Final = 40
_SHORT_ID_CHARS: Final = 9
_SHORT_ID: Final = re.compile("[a-zA-Z0-9]{9}")


def fit_messages(messages: Sequence[Mapping[str, Any]], facts: TemplateFacts) -> list[dict[str, Any]]:
    """The messages for a template with these facts. The given messages are not changed.

    No text is added that no client sent. These things may change: a role that the template does not know; the form of a
    content, of tool-call arguments and of reasoning; and the place of system messages that the template does not take.
    """
    fitted = [_fit(message, facts) for message in messages]
    return _with_system_in_place(fitted, facts)


def has_text_arguments(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether some tool call has its arguments as text, as OpenAI's clients send them."""
    return any(
        isinstance(function.get("arguments"), str)
        for message in messages
        for call in _list(message.get("tool_calls"))
        if isinstance(call, Mapping) and isinstance(function := call.get("function"), Mapping)
    )


def _fit(message: Mapping[str, Any], facts: TemplateFacts) -> dict[str, Any]:
    fitted = dict(message)
    if fitted.get("role") == "developer" and not facts.knows_developer:
        fitted["role"] = "system"
    elif fitted.get("role") == "function" and facts.shows_results:
        fitted["role"] = "tool"
    if facts.wants_short_ids and isinstance(fitted.get("tool_call_id"), str):
        fitted["tool_call_id"] = _short_id(fitted["tool_call_id"])
    if "content" in fitted:
        fitted["content"] = _fit_content(fitted.get("role"), fitted["content"], facts)
    if isinstance(call := fitted.get("function_call"), Mapping) and "function_call" not in facts.words:
        del fitted["function_call"]
        fitted["tool_calls"] = fitted.get("tool_calls") or [{"type": "function", "function": dict(call)}]
    calls = fitted.get("tool_calls")
    if isinstance(calls, Sequence) and not calls:
        del fitted["tool_calls"]  # templates test whether the key exists
    elif isinstance(calls, list):
        fitted["tool_calls"] = [_fit_call(call, facts) for call in calls]
    return _with_reasoning(fitted, facts, thoughts=_thoughts(message.get("content")))


def _thoughts(content: Any) -> str:
    """The texts of the parts of type `thinking`, joined."""
    parts = content if isinstance(content, list) else []
    thoughts = (part for part in parts if isinstance(part, Mapping) and part.get("type") == "thinking")
    return "\n".join(filter(None, (text_of(part.get("thinking")) for part in thoughts)))


def _with_reasoning(message: dict[str, Any], facts: TemplateFacts, *, thoughts: str) -> dict[str, Any]:
    """The message with its reasoning under the key, or in the part, that the template reads.

    `thoughts` is the reasoning of a message that has it in parts. If the template refuses reasoning beside a text and
    tool calls, the text is appended to the reasoning.
    """
    key = facts.reasoning_key
    names = REASONING_KEYS if key is None else (key, *REASONING_KEYS)
    reasoning = next((message[name] for name in names if message.get(name)), thoughts)
    if not isinstance(reasoning, str) or not reasoning:
        return message
    content = message.get("content")
    if facts.reads_thinking_parts and message.get("role") == "assistant" and not thoughts:
        return {**message, "content": [{"type": "thinking", "thinking": reasoning}, *_as_parts(content)]}
    if key is None:
        return message
    text = text_of(content)
    if text and message.get("tool_calls") and not facts.takes_reasoning_beside_text:
        return {**message, "content": None, key: f"{reasoning}\n{text}"}
    return {**message, key: reasoning}


def _short_id(call_id: str) -> str:
    """An id of nine letters and digits, the same for the same id."""
    if _SHORT_ID.fullmatch(call_id):
        return call_id
    return sha256(call_id.encode(errors="replace")).hexdigest()[:_SHORT_ID_CHARS]


def _fit_call(call: Any, facts: TemplateFacts) -> Any:
    """The tool call with `{}` as arguments if its arguments are empty or missing, and with an id that fits."""
    if facts.wants_short_ids and isinstance(call, Mapping) and isinstance(call.get("id"), str):
        call = {**call, "id": _short_id(call["id"])}
    match call:
        case {"function": {"name": _, **function}}:
            arguments = function.get("arguments")
            if arguments is None or (isinstance(arguments, str) and arguments.strip() in _NO_ARGUMENTS):
                return {**call, "function": {**call["function"], "arguments": {}}}
        case _:
            pass
    return call


def _fit_content(role: object, content: Any, facts: TemplateFacts) -> Any:
    role = "system" if role == "developer" else role
    if isinstance(content, str):
        wants_parts = role in facts.part_roles and role not in facts.text_roles
        return [{"type": "text", "text": content}] if wants_parts else content
    if not isinstance(content, list | tuple):
        return content
    if role in facts.part_roles:
        words = facts.words if facts.reads_thinking_parts else facts.words - {"thinking"}  # it is only a key's name
        return list(_parts(content, knows=words.__contains__))
    return "".join(part["text"] for part in _parts(content, knows=lambda _type: False))


def _parts(parts: Sequence[Any], *, knows: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """The parts that a template can show: texts, parts with a text, and parts of a type that the template knows."""
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(part, str):
            yield {"type": "text", "text": part}
        elif not isinstance(part, Mapping):
            logger.debug("a content part that is no object is left out")
        elif isinstance(kind, str) and kind != "text" and knows(kind):
            yield dict(part)
        elif isinstance(text := part.get("text", part.get("refusal")), str):
            yield dict(part) if kind == "text" else {"type": "text", "text": text}
        else:
            logger.debug(
                "a content part of a type that the template cannot show is left out: %.*s", _LONGEST_TYPE, kind
            )


def _with_system_in_place(messages: Sequence[dict[str, Any]], facts: TemplateFacts) -> list[dict[str, Any]]:
    """The messages with system texts where the template takes them.

    If the template takes one system message only, those at the beginning become one. A system text that the template
    does not take is put before the text of the next user message. If no user message follows, it is put behind the last
    user message, or becomes a user message of its own.
    """
    count = next((i for i, message in enumerate(messages) if message.get("role") not in _SYSTEM), len(messages))
    head, rest = messages[:count], messages[count:]
    placed: list[dict[str, Any]] = []
    waiting: list[str] = []
    if not facts.takes_system:
        waiting = [text_of(message.get("content")) for message in head]
    elif count > 1 and not facts.takes_two_systems:
        text = "\n".join(text_of(message.get("content")) for message in head)
        placed.append({**head[0], "content": _fit_content("system", text, facts)})
    else:
        placed += head
    for message in rest:
        match message.get("role"):
            case "system" | "developer" if not (facts.takes_system and facts.takes_later_system):
                waiting.append(text_of(message.get("content")))
            case "user" if waiting:
                content = joined("\n".join(waiting) + "\n", message.get("content"))
                placed.append({**message, "content": content})
                waiting.clear()
            case _:
                placed.append(message)
    if waiting and placed and placed[-1].get("role") == "user":  # some templates refuse two user messages in a row
        content = joined(placed[-1].get("content"), "\n" + "\n".join(waiting))
        placed[-1] = {**placed[-1], "content": content}
    elif waiting:
        placed.append({"role": "user", "content": _fit_content("user", "\n".join(waiting), facts)})
    return placed


def joined(*contents: Any) -> Any:
    """One content made of several: a list of parts if one of them is a list, otherwise a text."""
    if any(isinstance(content, list) for content in contents):
        return [part for content in contents for part in _as_parts(content)]
    return "".join(map(text_of, contents))


def _as_parts(content: Any) -> list[Any]:
    if isinstance(content, list):
        return content
    return [{"type": "text", "text": content}] if content else []


def text_of(content: Any) -> str:
    """The text of a content. The texts of its parts are joined; other parts are left out."""
    if isinstance(content, list):
        return "".join(part["text"] for part in _parts(content, knows=lambda _type: False))
    return content if isinstance(content, str) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
