"""Tells a model of tools in the text of messages, for a chat template that does not show them. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from neuron_lib.text.formats.spelling import Speller
from neuron_lib.text.formats.tool_format import ParsedCall
from neuron_lib.text.messages import joined, text_of

__all__ = ("described_tools", "mentions_tools", "shows_described_tools", "with_tools_as_text")

_EXAMPLE: Final = ParsedCall("FUNCTION", '{"ARGUMENT": "VALUE"}')
_RESULT_ROLES: Final = frozenset(("tool", "function"))
_TITLE: Final = "You can call these functions:"
_INTRODUCTION: Final = f"# Tools\n\n{_TITLE}\n\n"
_HOW_TO_CALL: Final = """

To call a function, write only a block of this form, with the name and the arguments of the function as JSON:
"""
_MORE: Final = """
For several calls write several blocks. The results follow in the next message. Answer without a block if you need no \
function."""


def mentions_tools(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether some message calls a tool or has the result of one."""
    return any(
        message.get("role") in _RESULT_ROLES or message.get("tool_calls") or message.get("function_call")
        for message in messages
    )


def shows_described_tools(prompt: str) -> bool:
    """Whether a prompt has the description of tools in it. A template may leave out the message that has it."""
    return _TITLE in prompt


def with_tools_as_text(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], *, spell: Speller, keeps_results: bool
) -> list[dict[str, Any]]:
    """The messages with the tools in the system message, which is added if there is none, and with calls as text.

    `spell` writes calls in the format of the model. Results become messages of the user, unless `keeps_results`. The
    given messages are not changed.
    """
    written = [_with_calls_as_text(message, spell) for message in messages]
    if not keeps_results:
        written = list(_merged(map(_with_result_as_text, written)))
    return described_tools(written, tools, spell=spell)


def described_tools(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], *, spell: Speller
) -> list[dict[str, Any]]:
    """The messages with the tools in the system message, which is added if there is none."""
    written = [dict(message) for message in messages]
    if not tools:
        return written
    text = _described(tools, spell([_EXAMPLE]))
    if written and written[0].get("role") in {"system", "developer"}:
        content = joined(written[0].get("content"), "\n\n" + text)
        return [{**written[0], "content": content}, *written[1:]]
    return [{"role": "system", "content": text}, *written]


def _described(tools: Sequence[Mapping[str, Any]], example: str) -> str:
    functions = (tool.get("function", tool) for tool in tools)
    lines = "\n".join(json.dumps(function, ensure_ascii=False) for function in functions)
    return f"{_INTRODUCTION}{lines}{_HOW_TO_CALL}{example}{_MORE}"


def _with_calls_as_text(message: Mapping[str, Any], spell: Speller) -> dict[str, Any]:
    others = {key: value for key, value in message.items() if key not in {"tool_calls", "function_call"}}
    calls = [*_calls(message.get("tool_calls")), *_calls([message.get("function_call")])]
    if not calls:
        return others
    text = text_of(message.get("content"))
    return {**others, "content": f"{text}\n{spell(calls)}" if text else spell(calls)}


def _with_result_as_text(message: dict[str, Any]) -> dict[str, Any]:
    """The message, or the result of a tool as a message of the user."""
    if message.get("role") not in _RESULT_ROLES:
        return message
    result = f"<tool_response>\n{text_of(message.get('content'))}\n</tool_response>"
    return {"role": "user", "content": result}


def _calls(calls: object) -> Iterator[ParsedCall]:
    """The calls of a message, as OpenAI's clients send them."""
    for call in calls if isinstance(calls, list) else ():
        match call:
            case {"function": {"name": str(name), **more}} | {"name": str(name), **more}:
                yield ParsedCall(name, _arguments(more.get("arguments")))
            case _:
                pass


def _arguments(arguments: object) -> str:
    if isinstance(arguments, str):
        return arguments.strip() or "{}"
    return json.dumps({} if arguments is None else arguments, ensure_ascii=False)


def _merged(messages: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The messages with several of the user in a row as one, because many templates refuse two in a row.

    Only messages that were results of tools are merged with others.
    """
    last: dict[str, Any] | None = None
    for message in messages:
        if last is not None and last.get("role") == message.get("role") == "user" and _is_result(last):
            last = {**message, "content": joined(last["content"], "\n", message.get("content"))}
            continue
        if last is not None:
            yield last
        last = message
    if last is not None:
        yield last


def _is_result(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, str) and content.startswith("<tool_response>")
