"""Harmony, the format of gpt-oss: a reply is several messages, each with a header that names its channel.

Messages of the channel `analysis` are reasoning. A message that is addressed to a function is a call. All others are
the answer.
"""

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

from neuron_lib.text.formats.marked import numbered_ids
from neuron_lib.text.formats.rules import RuleWriter, write_calls
from neuron_lib.text.formats.scanning import NoCall, called
from neuron_lib.text.formats.tool_format import OutputEvent, ParsedCall, Reader, Tools, Trigger
from neuron_lib.text.formats.values import json_value, parameters_of
from neuron_lib.text.tag_splitter import Markers, cut_at_tag
from neuron_lib.types import ReasoningDelta, TextDelta, ToolCall

__all__ = ("HARMONY",)

_START: Final = "<|start|>"
_CHANNEL: Final = "<|channel|>"
_CONSTRAIN: Final = "<|constrain|>"
_MESSAGE: Final = "<|message|>"
_ENDS: Final = ("<|end|>", "<|return|>", "<|call|>")
_STOPS: Final = (*_ENDS, _START, _CHANNEL)
"""What ends a message: its own end, or the beginning of the next header."""
_HEADS: Final = (*_ENDS, _START, _CHANNEL, _CONSTRAIN, _MESSAGE, "to=")
"""How a header may begin. A reply that begins with something else is an answer without a header."""
_LONGEST_HEADER: Final = 512
_CHANNEL_NAME: Final = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT: Final = re.compile(r"\bto=([^\s<]+)")
_FUNCTIONS: Final = "functions."
_REASONING: Final = Markers(f"{_CHANNEL}analysis{_MESSAGE}", "<|end|>")

_Kind: TypeAlias = Literal["header", "reasoning", "answer", "call"]
"""What the text is at a place of the reply."""


@dataclass(slots=True, frozen=True)
class _Harmony:
    """See `ToolFormat`."""

    name: str = "harmony"
    reasoning: Markers | None = _REASONING
    shown_tokens: tuple[str, ...] = (*_STOPS, _MESSAGE, _CONSTRAIN)
    triggers: tuple[Trigger, ...] = (Trigger(f"{_CHANNEL}commentary to={_FUNCTIONS}"),)

    def fits(self, template: str) -> bool:
        return all(text in template for text in (_START, _CHANNEL, _MESSAGE, "analysis"))

    def starts_in_reasoning(self, prompt_end: str, reasoning: Markers | None) -> bool:
        return reasoning is not None and prompt_end.endswith(reasoning.open)

    def reader(
        self,
        *,
        tools: Tools = (),
        reasoning: Markers | None = None,
        starts_in_reasoning: bool = False,
        include_thinking: bool = False,
        token_hex: Callable[[int], str] = secrets.token_hex,
    ) -> Reader:
        return _HarmonyReader(
            tools,
            starts_in_reasoning=starts_in_reasoning,
            include_thinking=include_thinking or reasoning is None,
            token_hex=token_hex,
        )

    def spelled(self, calls: Sequence[ParsedCall]) -> str:  # noqa: ARG002 - all templates show calls
        return ""

    def call_rules(
        self,
        tools: Tools,
        *,
        parallel: bool,  # noqa: ARG002 - a message with a call ends the turn, so there is one call
        tokens: Mapping[str, int],
    ) -> str:
        """See `ToolFormat`. There is one call in any case, because a message with a call ends the turn."""
        writer = RuleWriter(tokens)
        head = f"{_CHANNEL}commentary to={_FUNCTIONS}NAME {_CONSTRAIN}json{_MESSAGE}"

        def call(name: str, schema: Mapping[str, Any]) -> str:
            return f"{writer.text(head.replace('NAME', name))} {writer.json(schema)}"

        write_calls(writer, tools, call=call, is_parallel=False, before=f"({writer.text(_START + 'assistant')})?")
        return writer.source


HARMONY: Final = _Harmony()


class _HarmonyReader:
    """See `Reader`."""

    __slots__ = (
        "_body",
        "_calls_seen",
        "_header",
        "_include_thinking",
        "_is_open",
        "_kind",
        "_name",
        "_pending",
        "_said",
        "_token_hex",
        "_tools",
    )

    def __init__(
        self,
        tools: Tools,
        *,
        starts_in_reasoning: bool,
        include_thinking: bool,
        token_hex: Callable[[int], str],
    ) -> None:
        self._tools = tools
        self._include_thinking = include_thinking
        self._token_hex = token_hex
        self._calls_seen = 0
        self._pending = ""  # text that is not read yet
        self._kind: _Kind = "reasoning" if starts_in_reasoning else "header"
        self._header = ""  # of the message that begins, or of the call
        self._name = self._body = ""  # of the call
        # Whether the message has given out text, and the kinds of messages that have. The next message of the same kind
        # begins on a new line.
        self._is_open = False
        self._said: set[_Kind] = set()

    @property
    def in_reasoning(self) -> bool:
        return self._kind == "reasoning"

    @property
    def may_owe_text(self) -> bool:
        if self._kind == "reasoning":
            return self._include_thinking and bool(self._pending)
        return self._kind == "call" or bool(self._pending or self._header)

    @property
    def tool_calls_seen(self) -> int:
        return self._calls_seen

    def feed(self, text: str) -> list[OutputEvent]:
        events: list[OutputEvent] = []
        self._pending += text
        while self._pending and self._advance(events):
            pass
        return events

    def finish(self, *, is_cut: bool = False) -> list[OutputEvent]:
        events: list[OutputEvent] = []
        rest, self._pending = self._pending, ""
        if is_cut and len(rest) > 1 and any(mark.startswith(rest.lstrip()) for mark in (*_HEADS, *_STOPS)):
            rest = ""
        if self._kind == "call":
            self._body += rest
            self._end_call("", events, is_cut=is_cut)
        elif self._kind != "header":
            self._say(rest, events)
        elif not (is_cut and (self._header or rest.lstrip().startswith(_HEADS))):
            self._kind, rest, self._header = "answer", self._header + rest, ""
            self._say(rest, events)
        self._close(events)
        return events

    # ---------------------------------------------------------------------------------------------------- step by step

    def _advance(self, events: list[OutputEvent]) -> bool:
        """Read some of the pending text. Returns False if more text must come first."""
        if self._kind == "header":
            return self._read_header(events)
        before, tag, self._pending = cut_at_tag(self._pending, _STOPS)
        if self._kind == "call":
            self._body += before
        else:
            self._say(before, events)
        if tag is None:
            return False
        if self._kind == "call":
            self._end_call(tag, events, is_cut=False)
        self._close(events)
        self._kind, self._header = "header", "" if tag in _ENDS else tag
        return True

    def _read_header(self, events: list[OutputEvent]) -> bool:
        """Read up to the text of a message. Returns False if more text must come first."""
        text = self._pending.lstrip()
        if not self._header and not any(text.startswith(head) or head.startswith(text) for head in _HEADS):
            self._kind = "answer"
            return True
        before, tag, rest = cut_at_tag(self._pending[:_LONGEST_HEADER], (_MESSAGE, _START, *_ENDS))
        if tag is None and len(self._pending) < _LONGEST_HEADER:
            return False
        header, self._header = self._header, ""
        if tag is None:  # too long for a header
            self._kind = "answer"
            self._say(header, events)
            return True
        self._pending = rest + self._pending[_LONGEST_HEADER:]
        if tag == _MESSAGE:
            header += before
            self._kind = self._kind_of(header)
            self._header = header + tag if self._kind == "call" else ""
        elif tag == _START:
            self._header = tag
        return True

    def _kind_of(self, header: str) -> _Kind:
        channel, recipient = _CHANNEL_NAME.search(header), _RECIPIENT.search(header)
        name = recipient[1] if recipient is not None else ""
        if name.startswith(_FUNCTIONS) or parameters_of(name, self._tools).is_declared:
            self._name, self._body = name.removeprefix(_FUNCTIONS), ""
            return "call"
        # A message to a tool that the model knows by itself, such as `python`, is a part of its reasoning.
        is_reasoning = (channel is not None and channel[1] == "analysis") or name not in {"", "user", "all"}
        return "reasoning" if is_reasoning else "answer"

    def _end_call(self, tag: str, events: list[OutputEvent], *, is_cut: bool) -> None:
        """The message of a call ends with `tag`."""
        header, self._header = self._header, ""
        call = None if is_cut and not self._body.strip() else self._call()
        if call is None:
            self._kind = "answer"
            if not is_cut:
                self._say(header + self._body + (tag if tag in _ENDS else ""), events)
            return
        call_id = numbered_ids(self._calls_seen, call.name, self._token_hex)
        events.append(ToolCall(index=self._calls_seen, id=call_id, name=call.name, arguments=call.arguments))
        self._calls_seen += 1

    def _call(self) -> ParsedCall | None:
        """The call that the message is, None if the message is not understood."""
        value = json_value(self._body) if self._body.strip() else {}
        try:
            return called(self._name, value)[0] if self._tools and isinstance(value, dict) else None
        except NoCall:
            return None

    # ------------------------------------------------------------------------------------------------------------- text

    def _say(self, text: str, events: list[OutputEvent]) -> None:
        """Give out text of the answer or of the reasoning."""
        if not text:
            return
        is_reasoning = self._kind == "reasoning"
        if not self._is_open:
            is_new_line = self._kind in self._said
            self._is_open = True
            self._said.add(self._kind)
            if is_reasoning and self._include_thinking:
                text = _REASONING.open + text
            elif is_new_line:
                text = f"\n{text}"
        events.append(ReasoningDelta(text) if is_reasoning and not self._include_thinking else TextDelta(text))

    def _close(self, events: list[OutputEvent]) -> None:
        """End the text of a message."""
        if self._is_open and self._kind == "reasoning" and self._include_thinking:
            events.append(TextDelta(_REASONING.close))
        self._is_open = False
