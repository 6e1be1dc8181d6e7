"""Turns the text a model writes into answer, reasoning and tool calls. Owns the state of one reply; does no I/O."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from neuron_lib.text.tag_splitter import Markers, cut_at_tag
from neuron_lib.text.tool_calls import parse_tool_call
from neuron_lib.types import ReasoningDelta, TextDelta, ToolCall

__all__ = ("OutputEvent", "OutputParser")

OutputEvent: TypeAlias = TextDelta | ReasoningDelta | ToolCall


class OutputParser:
    """Reads one reply from its first character to its last: `feed` each piece, then `finish` once.

    `reasoning` and `tool_call` are the marker pairs of the model, None where it has none. With `include_thinking`
    the reasoning is part of the answer, inside its literal markers. A tool-call block that is not understood, or is
    still open at the end, becomes text, markers included. White space between a removed block and the answer after
    it is dropped. No event is ever empty (wire contract §1.8).
    """

    __slots__ = (
        "_block",
        "_body",
        "_held",
        "_include_thinking",
        "_openers",
        "_owed_marker",
        "_reasoning",
        "_skips_space",
        "_token_hex",
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
        self._include_thinking = include_thinking
        self._tools = tools
        self._token_hex = token_hex
        self._openers = {markers.open: markers for markers in (reasoning, tool_call) if markers is not None}
        self._tool_calls_seen = 0
        self._held = ""
        self._body = ""
        self._skips_space = False
        # The block the reply is in; None is the answer itself.
        self._block = reasoning if starts_in_reasoning else None
        # A prompt that opened the block wrote the marker, so the reader of the reply has not seen it.
        self._owed_marker = self._block.open if self._block is not None else ""

    @property
    def in_reasoning(self) -> bool:
        """Whether what was fed so far ends inside a reasoning block."""
        return self._block is not None and self._block is self._reasoning

    @property
    def may_owe_text(self) -> bool:
        """Whether some of what was fed is held back and may still become part of the answer."""
        if self.in_reasoning:
            return self._include_thinking and bool(self._held)
        return self._block is not None or bool(self._held)

    @property
    def tool_calls_seen(self) -> int:
        """How many tool calls were understood."""
        return self._tool_calls_seen

    def feed(self, text: str) -> list[OutputEvent]:
        """Take more of the reply; returns what it settles, in order."""
        if not text:
            return []
        if not self._openers:
            return [TextDelta(text)]
        events: list[OutputEvent] = []
        before, tag, rest = cut_at_tag(self._held + text, self._tags())
        while tag is not None:
            self._take_text(before, events)
            self._take_tag(tag, events)
            before, tag, rest = cut_at_tag(rest, self._tags())
        self._take_text(before, events)
        self._held = rest
        return events

    def finish(self) -> list[OutputEvent]:
        """The reply is over; returns what was held back."""
        events: list[OutputEvent] = []
        self._take_text(self._held, events)
        if self._block is None:
            return events
        if not self.in_reasoning:
            _append_text(events, self._block.open + self._body)
        elif self._include_thinking and not self._owed_marker:
            _append_text(events, self._block.close)
        return events

    def _tags(self) -> Sequence[str]:
        """The tags that mean something at this point of the reply."""
        return (self._block.close,) if self._block is not None else tuple(self._openers)

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

    def _take_tag(self, tag: str, events: list[OutputEvent]) -> None:
        if self._block is None:
            self._block = self._openers[tag]
            if self.in_reasoning and self._include_thinking:
                self._take_reasoning(tag, events)
            return
        ended, self._block = self._block, None
        if ended is not self._reasoning:
            self._take_tool_call(ended, events)
            return
        if self._include_thinking:
            self._take_reasoning(tag, events)
        self._skips_space = not self._include_thinking

    def _take_tool_call(self, block: Markers, events: list[OutputEvent]) -> None:
        body, self._body = self._body, ""
        call = parse_tool_call(body, self._tools)
        self._skips_space = call is not None
        if call is None:
            _append_text(events, block.open + body + block.close)
            return
        index = self._tool_calls_seen
        call_id = f"call_{self._token_hex(8)}_{index}"
        events.append(ToolCall(index=index, id=call_id, name=call.name, arguments=call.arguments))
        self._tool_calls_seen += 1


def _append_text(events: list[OutputEvent], text: str) -> None:
    """Add to the answer; neighbours become one event, because each costs its reader a message."""
    match events:
        case [*_, TextDelta(text=earlier)]:
            events[-1] = TextDelta(earlier + text)
        case _:
            events.append(TextDelta(text))
