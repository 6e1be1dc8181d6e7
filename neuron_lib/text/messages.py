"""Messages as clients send them, in the form that a chat template shows. Pure: the facts decide."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from neuron_lib.text.template_facts import TemplateFacts

__all__ = ("fit_messages", "has_text_arguments")

logger = logging.getLogger(__name__)

_SYSTEM: Final = frozenset(("system", "developer"))
_NO_ARGUMENTS: Final = frozenset(("", "null"))
_REASONING_KEYS: Final = ("reasoning_content", "reasoning", "thinking")
_LONGEST_TYPE: Final = 40


def fit_messages(messages: Sequence[Mapping[str, Any]], facts: TemplateFacts) -> list[dict[str, Any]]:
    """The messages for a template with these facts; those given stay as they are.

    Nothing is added that nobody sent. What changes is a role that the template does not know, the form of a content,
    of the arguments of tool calls and of reasoning, and, for a template without system messages, their place.
    """
    fitted = [_fit(message, facts) for message in messages]
    return list(_with_system_in_place(fitted, facts))


def has_text_arguments(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether some tool call carries its arguments as text, as OpenAI's clients do."""
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
    if "content" in fitted:
        fitted["content"] = _fit_content(fitted.get("role"), fitted["content"], facts)
    calls = fitted.get("tool_calls")
    if isinstance(calls, Sequence) and not calls:
        del fitted["tool_calls"]  # templates ask whether the key is there
    elif isinstance(calls, list):
        fitted["tool_calls"] = [_fit_call(call) for call in calls]
    key = facts.reasoning_key
    if key is not None and not fitted.get(key):
        reasoning = next((fitted[name] for name in _REASONING_KEYS if fitted.get(name)), None)
        if isinstance(reasoning, str):
            fitted[key] = reasoning
    return fitted


def _fit_call(call: Any) -> Any:
    """The tool call with arguments for a function that takes none, where it has none that say anything."""
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
        return list(_parts(content, knows=facts.words.__contains__))
    return "".join(part["text"] for part in _parts(content, knows=lambda _type: False))


def _parts(parts: Sequence[Any], *, knows: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    """The parts that a template can show: texts, whatever has a text, and the types that it knows."""
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


def _with_system_in_place(messages: Sequence[dict[str, Any]], facts: TemplateFacts) -> Iterator[dict[str, Any]]:
    """The messages with system texts where the template takes them.

    Those at the head become one, where it takes no more. Others it does not take go before what the next user says, or
    to a user of their own if none comes.
    """
    count = next((i for i, message in enumerate(messages) if message.get("role") not in _SYSTEM), len(messages))
    head, rest = messages[:count], messages[count:]
    waiting: list[str] = []
    if not facts.takes_system:
        waiting = [_text(message.get("content")) for message in head]
    elif count > 1 and not facts.takes_two_systems:
        yield {**head[0], "content": "\n".join(_text(message.get("content")) for message in head)}
    else:
        yield from head
    for message in rest:
        match message.get("role"):
            case "system" | "developer" if not (facts.takes_system and facts.takes_later_system):
                waiting.append(_text(message.get("content")))
            case "user" if waiting:
                yield {**message, "content": _with_head("\n".join(waiting) + "\n", message.get("content"))}
                waiting.clear()
            case _:
                yield message
    if waiting:
        yield {"role": "user", "content": "\n".join(waiting)}


def _with_head(head: str, content: Any) -> Any:
    return [{"type": "text", "text": head}, *content] if isinstance(content, list) else head + _text(content)


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part["text"] for part in _parts(content, knows=lambda _type: False))
    return content if isinstance(content, str) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
