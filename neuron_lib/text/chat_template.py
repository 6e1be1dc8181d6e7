"""Renders a model's own chat template. The only door to Jinja.

A template comes with the model file and is foreign code: it runs in Jinja's immutable sandbox, without a loader,
with bounds on its size, its output and the operators that make much out of little. It can still burn time and memory,
so render where rendering can be killed.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
from jinja2 import Template

from neuron_lib.errors import TemplateFailed
from neuron_lib.text.template_limits import Allowance, spending
from neuron_lib.text.template_sandbox import Sandbox, raise_exception

__all__ = ("CHATML", "MAX_OUTPUT_CHARS", "MAX_SOURCE_CHARS", "ChatTemplate")

CHATML: Final = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {{- message.content | selectattr('text', 'defined') | map(attribute='text') | join('\\n') -}}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
"""The fallback for a model whose own template is missing or broken."""

MAX_SOURCE_CHARS: Final = 256 * 1024
MAX_OUTPUT_CHARS: Final = 8 * 1024 * 1024

_MAX_DATE_PATTERN_CHARS: Final = 256


class ChatTemplate:
    """A compiled template. Immutable; lives as long as its model, and any number of renderings may use it."""

    __slots__ = ("_context", "_max_output_chars", "_template")

    def __init__(
        self, source: str, *, bos_token: str, eos_token: str, max_output_chars: int = MAX_OUTPUT_CHARS
    ) -> None:
        """Compile `source`; raises `TemplateFailed` if it is too long or is no template."""
        if len(source) > MAX_SOURCE_CHARS:
            raise TemplateFailed(
                f"the chat template has {len(source)} characters; {MAX_SOURCE_CHARS} are allowed",
                source_chars=len(source),
                limit=MAX_SOURCE_CHARS,
            )
        try:
            self._template: Template = Sandbox(is_none=_is_none).from_string(source)
        except Exception as exc:  # the compiler, too, runs foreign text: RecursionError, MemoryError, SyntaxError …
            raise TemplateFailed("the chat template cannot be compiled") from exc
        self._context = {"bos_token": bos_token, "eos_token": eos_token, "add_generation_prompt": True}
        self._max_output_chars = max_output_chars

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        template_kwargs: Mapping[str, Any] | None = None,
        now: Callable[[], datetime],
    ) -> str:
        """The prompt for `messages`, which stay as they are; raises `TemplateFailed` with the cause.

        `template_kwargs` go over the defaults (`add_generation_prompt` is true) but not over messages and tools.
        `now` answers a template that asks for the date.
        """
        context = {
            **self._context,
            **(template_kwargs or {}),
            "messages": [_readable(message) for message in messages],
            "tools": list(tools) or None,
            "strftime_now": lambda pattern: _date(now(), pattern),
            "raise_exception": raise_exception,
        }
        pieces: list[str] = []
        room = self._max_output_chars
        try:
            with spending(Allowance()):
                for piece in self._template.generate(context):
                    room -= len(piece)
                    if room < 0:
                        raise_exception(f"the prompt has more than {self._max_output_chars} characters")
                    pieces.append(piece)
        except Exception as exc:  # foreign code: it may raise anything, RecursionError and MemoryError included
            raise TemplateFailed("the chat template cannot render these messages") from exc
        return "".join(pieces)


def _date(now: datetime, pattern: str) -> str:
    if len(pattern) > _MAX_DATE_PATTERN_CHARS:
        raise_exception(f"strftime_now: a pattern has more than {_MAX_DATE_PATTERN_CHARS} characters")
    return now.strftime(pattern)


class _NoContent(str):
    """The content of a message that has none: empty text to a template that writes it, null to one that asks."""

    __slots__ = ()


_NO_CONTENT: Final = _NoContent()


def _is_none(value: object) -> bool:
    return value is None or value is _NO_CONTENT


def _readable(message: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of `message` as templates expect it: no nulls, and tool-call arguments as objects."""
    readable = {"content": _NO_CONTENT, **{key: value for key, value in message.items() if value is not None}}
    calls = readable.get("tool_calls")
    if isinstance(calls, list):
        readable["tool_calls"] = [_with_object_arguments(call) for call in calls]
    return readable


def _with_object_arguments(call: Any) -> Any:
    """The tool call with `function.arguments` parsed from JSON text; anything else stays (wire contract §1.8)."""
    match call:
        case {"function": {"arguments": str(text)} as function}:
            try:
                arguments = msgspec.json.decode(text, type=dict[str, Any])
            except (ValueError, RecursionError):
                return call
            return {**call, "function": {**function, "arguments": arguments}}
        case _:
            return call
