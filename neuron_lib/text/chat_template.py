"""Renders a model's own chat template. The only module that imports Jinja's templates.

A template comes with the model file and is foreign code. It runs in Jinja's immutable sandbox, without a loader. Its
size, its output and the operators that make large values from small ones are bounded. It can still take time and
memory, so it must be rendered where a rendering can be killed.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal

import msgspec
from jinja2 import Template, nodes

from neuron_lib.errors import TemplateFailed
from neuron_lib.text.template_limits import Allowance, spending
from neuron_lib.text.template_sandbox import Sandbox, raise_exception

__all__ = ("CHATML", "MAX_OUTPUT_CHARS", "MAX_SOURCE_CHARS", "ChatTemplate", "with_arguments")

CHATML: Final = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {{- message.content | selectattr('text', 'defined') | map(attribute='text') | join -}}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
"""The template that replaces the missing template of a model without one."""

MAX_SOURCE_CHARS: Final = 256 * 1024
MAX_OUTPUT_CHARS: Final = 8 * 1024 * 1024

_MAX_DATE_PATTERN_CHARS: Final = 256
_DATE_AND_TIME: Final = "%b %d %Y %H:%M:%S"
"""The format of `datetime`, which a few templates read."""
_SEARCHING: Final = frozenset(
    ("endswith", "find", "partition", "removeprefix", "removesuffix", "rpartition", "rsplit", "split", "startswith")
)
_CUTTING: Final = frozenset(
    (
        "partition",
        "removeprefix",
        "removesuffix",
        "replace",
        "rpartition",
        "rsplit",
        "split",
        "lstrip",
        "rstrip",
        "strip",
    )
)


class ChatTemplate:
    """A compiled template. Immutable. Lives as long as its model. Any number of renderings may use it, one after
    another.
    """

    __slots__ = ("_context", "_max_output_chars", "_template", "cutters", "searched", "words")

    words: Final[frozenset[str]]
    """The texts and the names of attributes in the source. All keys of a message that the template may read are among
    them.
    """
    cutters: Final[tuple[str, ...]]
    """The texts at which the template may cut a content, or which it may remove from one."""
    searched: Final[tuple[str, ...]]
    """The texts that the template searches for in a content to find the parts of the content."""

    def __init__(
        self, source: str, *, bos_token: str, eos_token: str, max_output_chars: int = MAX_OUTPUT_CHARS
    ) -> None:
        """Compile `source`. Raises `TemplateFailed` if it is longer than `MAX_SOURCE_CHARS` or is not a template.

        `bos_token` and `eos_token` are the texts of these tokens, which templates read. A prompt may have
        `max_output_chars`.
        """
        if len(source) > MAX_SOURCE_CHARS:
            raise TemplateFailed(
                f"the chat template has {len(source)} characters; {MAX_SOURCE_CHARS} are allowed",
                source_chars=len(source),
                limit=MAX_SOURCE_CHARS,
            )
        try:
            sandbox = Sandbox(is_none=_is_none)
            syntax = sandbox.parse(source)
            self.words = frozenset(_words(syntax))
            self.cutters = tuple(sorted(set(_arguments_of(syntax, _CUTTING))))
            self.searched = tuple(sorted({*_arguments_of(syntax, _SEARCHING), *_members(syntax)}))
            self._template = Template.from_code(sandbox, sandbox.compile(syntax), sandbox.make_globals(None))
        except Exception as exc:  # foreign text can fail anywhere here: RecursionError, MemoryError, SyntaxError …
            raise TemplateFailed("the chat template cannot be compiled") from exc
        self._context = {"bos_token": bos_token, "eos_token": eos_token, "add_generation_prompt": True}
        self._max_output_chars = max_output_chars

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]] = (),
        template_kwargs: Mapping[str, Any] | None = None,
        arguments: Literal["object", "text"] = "object",
        now: Callable[[], datetime],
    ) -> str:
        """The prompt for `messages`. The messages are not changed. Raises `TemplateFailed` with the cause.

        `template_kwargs` override the defaults (`add_generation_prompt` is true), but not the messages and the tools.
        The arguments of earlier tool calls are given to the template as objects or as JSON text. `now` is called for a
        template that asks for the date. Blocks: a rendering may take seconds, and only a signal or the end of the
        process stops it.
        """
        today = now()
        context = {
            "datetime": today.strftime(_DATE_AND_TIME),
            **self._context,
            **(template_kwargs or {}),
            "messages": [_readable(message, arguments) for message in messages],
            "tools": list(tools) or None,
            "strftime_now": lambda pattern: _date(today, pattern),
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
    """The content of a message without one. Templates that write it get an empty text. The test `is none` is true for
    it.
    """

    __slots__ = ()


_NO_CONTENT: Final = _NoContent()


def _is_none(value: object) -> bool:
    return value is None or value is _NO_CONTENT


def _readable(message: Mapping[str, Any], arguments: Literal["object", "text"]) -> dict[str, Any]:
    """A copy of `message` as templates expect it: without nulls, and with tool-call arguments in the wanted form."""
    readable = {"content": _NO_CONTENT, **{key: value for key, value in message.items() if value is not None}}
    return with_arguments(readable, arguments)


def with_arguments(message: Mapping[str, Any], form: Literal["object", "text"]) -> dict[str, Any]:
    """A copy of `message` with the arguments of its tool calls in this form. Arguments that cannot have the form are
    kept.
    """
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return dict(message)
    change = _with_object_arguments if form == "object" else _with_text_arguments
    return {**message, "tool_calls": [change(call) for call in calls]}


def _with_object_arguments(call: Any) -> Any:
    """The tool call with `function.arguments` parsed from JSON text. Templates read objects; the text of OpenAI's
    clients made them fail. A text that is not a JSON object is kept.
    """
    match call:
        case {"function": {"arguments": str(text)} as function}:
            try:
                arguments = msgspec.json.decode(text, type=dict[str, Any])
            except (ValueError, RecursionError):
                return call
            return {**call, "function": {**function, "arguments": arguments}}
        case _:
            return call


def _with_text_arguments(call: Any) -> Any:
    """The tool call with `function.arguments` as JSON text. A text is kept as it was sent."""
    match call:
        case {"function": {"arguments": dict(arguments)} as function}:
            return {**call, "function": {**function, "arguments": json.dumps(arguments, ensure_ascii=False)}}
        case _:
            return call


def _words(syntax: nodes.Template) -> Iterator[str]:
    for node in syntax.find_all((nodes.Const, nodes.Getattr)):
        if isinstance(node, nodes.Getattr):
            yield node.attr
        elif isinstance(node, nodes.Const) and isinstance(node.value, str):
            yield node.value


def _arguments_of(syntax: nodes.Template, names: frozenset[str]) -> Iterator[str]:
    """The constant texts that are passed to methods and filters of these names."""
    for node in syntax.find_all((nodes.Call, nodes.Filter)):
        match node:
            case nodes.Call(node=nodes.Getattr(attr=name)) | nodes.Filter(name=name) if name in names:
                for argument in node.args:
                    if isinstance(argument, nodes.Const) and isinstance(argument.value, str) and argument.value:
                        yield argument.value
            case _:
                pass


def _members(syntax: nodes.Template) -> Iterator[str]:
    """The constant texts on the left side of `in`."""
    for node in syntax.find_all(nodes.Compare):
        if isinstance(node.expr, nodes.Const) and isinstance(node.expr.value, str) and node.ops[0].op == "in":
            yield node.expr.value
