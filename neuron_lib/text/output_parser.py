"""Splits the text of a reply into answer, reasoning and tool calls. Owns the state of one reply; does no I/O."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

from neuron_lib.text.tag_splitter import Markers, cut_at_tag
from neuron_lib.text.tool_calls import ParsedCall, ends_inside_value, parse_tool_calls
from neuron_lib.types import ReasoningDelta, TextDelta, ToolCall

__all__ = ("OutputEvent", "OutputParser")

_MOST_INSIDE: Final = 4
"""The most markers in one block that are taken for a part of a value. For each the block is parsed once more."""

OutputEvent: TypeAlias = TextDelta | ReasoningDelta | ToolCall


class OutputParser:
    """Reads one reply from its first character to its last: `feed` each piece, then `finish` once. Lives as long as the
    reply.

    `reasoning` and `tool_call` are the marker pairs of the model, None if it has none. With `include_thinking` the
    reasoning is part of the answer, inside its markers. A tool-call block that is not understood stays text of the
    answer or the reasoning around it, with its markers. A block that is understood ends the reasoning around it. If the
    reply ends inside a block, the block may still be understood. White space between a removed block and the answer
    after it is dropped. No event is empty.
    """

    __slots__ = (
        "_block",
        "_body",
        "_drops_close",
        "_first_inside",
        "_held",
        "_include_thinking",
        "_inside",
        "_is_in_thought",
        "_openers",
        "_owed_marker",
        "_reasoning",
        "_skips_space",
        "_token_hex",
        "_tool_call",
        "_tool_calls_seen",
        "_tools",
    )

    def __init__(
        self,
        *,
        reasoning: Markers | None,
        tool_call: Markers | None,
        starts_in_reasoning: bool = False,
        include_thinking: bool = False,
        tools: Sequence[Mapping[str, Any]] = (),
        token_hex: Callable[[int], str] = secrets.token_hex,
    ) -> None:
        self._reasoning = reasoning
        self._tool_call = tool_call
        self._include_thinking = include_thinking
        self._tools = tools
        self._token_hex = token_hex
        self._openers = {markers.open: markers for markers in (reasoning, tool_call) if markers is not None}
        self._tool_calls_seen = 0
        self._held = ""
        self._body = ""
        self._skips_space = False
        # Of the current tool-call block: whether it is inside reasoning. Then the markers in it that were taken for
        # parts of a value: the first of them, and their number.
        self._is_in_thought = False
        self._first_inside: tuple[int, str] | None = None
        self._inside = 0
        # A call has ended the reasoning, and the closing marker of the reasoning may still come.
        self._drops_close = False
        # The block in which the reply is now. None is the answer itself.
        self._block = reasoning if starts_in_reasoning else None
        # The prompt may have opened the reasoning. Then the reader of the reply has not seen the opening marker yet.
        self._owed_marker = self._block.open if self._block is not None else ""

    @property
    def in_reasoning(self) -> bool:
        """Whether the text so far ends inside a reasoning block."""
        return self._block is not None and self._block is self._reasoning

    @property
    def may_owe_text(self) -> bool:
        """Whether some text is held back that may still become part of the answer."""
        if self.in_reasoning or (self._block is not None and self._is_in_thought):
            return self._include_thinking and bool(self._held or self._body)
        return self._block is not None or bool(self._held)

    @property
    def tool_calls_seen(self) -> int:
        """The number of tool calls that were understood."""
        return self._tool_calls_seen

    def feed(self, text: str) -> list[OutputEvent]:
        """Add more text of the reply. Returns the events that are certain now, in order."""
        if not text:
            return []
        if not self._openers:
            return [TextDelta(text)]
        return self._read(self._held + text)

    def finish(self) -> list[OutputEvent]:
        """End the reply. Returns the events for all text that was held back."""
        events: list[OutputEvent] = []
        self._take_held(events)
        while self._block is not None and self._block is self._tool_call:
            calls = parse_tool_calls(_without_beginning(self._block.close, self._body), self._tools)
            if calls:
                self._take_calls(calls, events)
            else:
                events += self._read(self._refuse_block("", events))
                self._take_held(events)
        if self.in_reasoning and self._include_thinking and not self._owed_marker:
            assert self._reasoning is not None  # `in_reasoning` says so
            _append_text(events, self._reasoning.close)
        return events

    def _read(self, text: str) -> list[OutputEvent]:
        events: list[OutputEvent] = []
        before, tag, rest = cut_at_tag(text, self._tags())
        while tag is not None:
            self._take_text(before, events)
            again = self._take_tag(tag, events)
            before, tag, rest = cut_at_tag(again + rest, self._tags())
        self._take_text(before, events)
        self._held = rest
        return events

    def _take_held(self, events: list[OutputEvent]) -> None:
        held, self._held = self._held, ""
        self._take_text(held, events)

    def _tags(self) -> Sequence[str]:
        """The tags that have a meaning at this point of the reply."""
        block, reasoning, tool_call = self._block, self._reasoning, self._tool_call
        if block is None:
            return (*self._openers, reasoning.close) if self._drops_close and reasoning else tuple(self._openers)
        if block is reasoning:
            return (block.close,) if tool_call is None else (block.close, tool_call.open)
        return (block.close, reasoning.close) if self._is_in_thought and reasoning else (block.close,)

    def _take_text(self, text: str, events: list[OutputEvent]) -> None:
        if not text:
            return
        if self.in_reasoning:
            self._take_reasoning(text, events)
        elif self._block is not None:
            self._body += text
        elif answer := text.lstrip() if self._skips_space else text:
            self._skips_space = False
            _append_text(events, answer)

    def _take_reasoning(self, text: str, events: list[OutputEvent]) -> None:
        if self._include_thinking:
            _append_text(events, self._owed_marker + text)
            self._owed_marker = ""
        else:
            events.append(ReasoningDelta(text))

    def _take_tag(self, tag: str, events: list[OutputEvent]) -> str:
        """Process a tag. Returns the text that must be read again."""
        if self._block is None:
            self._leave_answer(tag, events)
        elif self._block is self._reasoning:
            self._leave_reasoning(tag, events)
        else:
            return self._leave_call(tag, events)
        return ""

    def _leave_answer(self, tag: str, events: list[OutputEvent]) -> None:
        self._block = self._openers.get(tag)  # None if the tag is a closing marker that is dropped
        self._drops_close = self._drops_close and self._block is self._tool_call
        self._skips_space = self._skips_space or self._block is None
        if self.in_reasoning and self._include_thinking:
            self._take_reasoning(tag, events)

    def _leave_reasoning(self, tag: str, events: list[OutputEvent]) -> None:
        if self._tool_call is not None and tag == self._tool_call.open:
            self._block, self._is_in_thought = self._tool_call, True
            return
        self._block = None
        if self._include_thinking:
            self._take_reasoning(tag, events)
        self._skips_space = not self._include_thinking

    def _leave_call(self, tag: str, events: list[OutputEvent]) -> str:
        assert self._block is not None  # the caller has checked this
        if self._inside < _MOST_INSIDE and ends_inside_value(self._body):
            self._inside += 1
            self._first_inside = self._first_inside or (len(self._body), tag)
            self._body += tag
            return ""
        calls = parse_tool_calls(self._body, self._tools) if tag == self._block.close else ()
        if not calls:
            return self._refuse_block(tag, events)
        self._take_calls(calls, events)
        return ""

    def _refuse_block(self, tag: str, events: list[OutputEvent]) -> str:
        """The block that `tag` ends is not a call. It ends at the first tag in it. Returns the text behind that tag."""
        assert self._tool_call is not None  # a block was open
        body, again = self._body, ""
        if self._first_inside is not None:
            place, first = self._first_inside
            body, again, tag = body[:place], body[place + len(first) :] + tag, first
        is_in_thought = self._is_in_thought
        self._reset_block()
        text = self._tool_call.open + body
        if tag == self._tool_call.close:
            text += tag
        else:
            again = tag + again
        if is_in_thought:
            self._block = self._reasoning
            self._take_reasoning(text, events)
        else:
            self._skips_space = False
            _append_text(events, text)
        return again

    def _take_calls(self, calls: Sequence[ParsedCall], events: list[OutputEvent]) -> None:
        if self._is_in_thought:
            self._drops_close = True
            if self._include_thinking and self._reasoning is not None and not self._owed_marker:
                _append_text(events, self._reasoning.close)
            self._owed_marker = ""
        self._reset_block()
        self._skips_space = True
        for call in calls:
            index = self._tool_calls_seen
            call_id = f"call_{self._token_hex(8)}_{index}"
            events.append(ToolCall(index=index, id=call_id, name=call.name, arguments=call.arguments))
            self._tool_calls_seen += 1

    def _reset_block(self) -> None:
        self._block, self._body, self._is_in_thought = None, "", False
        self._inside, self._first_inside = 0, None


def _without_beginning(tag: str, body: str) -> str:
    """`body` without the beginning of `tag` at its end."""
    lengths = (length for length in range(len(tag) - 1, 0, -1) if body.endswith(tag[:length]))
    return body[: len(body) - next(lengths, 0)]


def _append_text(events: list[OutputEvent], text: str) -> None:
    """Add text to the answer. Adjacent texts become one event, because each event costs its reader a message."""
    match events:
        case [*_, TextDelta(text=earlier)]:
            events[-1] = TextDelta(earlier + text)
        case _:
            events.append(TextDelta(text))
