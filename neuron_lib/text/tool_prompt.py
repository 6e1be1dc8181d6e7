"""Tells a model of tools in the text of messages, for a chat template that does not show them. Pure."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from neuron_lib.text.messages import joined, text_of

__all__ = ("mentions_tools", "shows_described_tools", "with_tools_as_text")

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
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], *, example: str, keeps_calls: bool
) -> list[dict[str, Any]]:
    """The messages with the tools in the system message, which is added if there is none.

    `example` is a call in the format of the model. Calls and results become text too, unless `keeps_calls`: calls that
    of the assistant, and results that of the user. The given messages are not changed.
    """
    written = [dict(message) for message in messages]
    if not keeps_calls:
        written = list(_merged(map(_as_text, written)))
    if not tools:
        return written
    text = _described(tools, example)
    if written and written[0].get("role") in {"system", "developer"}:
        content = joined(written[0].get("content"), "\n\n" + text)
        return [{**written[0], "content": content}, *written[1:]]
    return [{"role": "system", "content": text}, *written]


def _described(tools: Sequence[Mapping[str, Any]], example: str) -> str:
    functions = (tool.get("function", tool) for tool in tools)
    lines = "\n".join(json.dumps(function, ensure_ascii=False) for function in functions)
    return f"{_INTRODUCTION}{lines}{_HOW_TO_CALL}{example}{_MORE}"


def _as_text(message: dict[str, Any]) -> dict[str, Any]:
    """The message with its calls as text, or the result of a tool as a message of the user."""
    if message.get("role") in _RESULT_ROLES:
        result = f"<tool_response>\n{text_of(message.get('content'))}\n</tool_response>"
        return {"role": "user", "content": result}
    calls = [*_functions(message.pop("tool_calls", None)), *_functions([message.pop("function_call", None)])]
    if not calls:
        return message
    blocks = "\n".join(f"<tool_call>\n{_spelled(call)}\n</tool_call>" for call in calls)
    text = text_of(message.get("content"))
    return {**message, "content": f"{text}\n{blocks}" if text else blocks}


def _functions(calls: object) -> Iterator[Mapping[str, Any]]:
    """The name and the arguments of each call, as OpenAI's clients send them."""
    for call in calls if isinstance(calls, list) else ():
        match call:
            case {"function": {"name": _}}:
                yield call["function"]
            case {"name": _}:
                yield call
            case _:
                pass


def _spelled(call: Mapping[str, Any]) -> str:
    arguments = call.get("arguments")
    if not isinstance(arguments, str):
        arguments = json.dumps({} if arguments is None else arguments, ensure_ascii=False)
    return f'{{"name": {json.dumps(call["name"], ensure_ascii=False)}, "arguments": {arguments.strip() or "{}"}}}'


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
