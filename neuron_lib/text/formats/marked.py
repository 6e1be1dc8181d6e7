"""The formats whose calls and reasoning stand between markers. Nearly all families are one `MarkedFormat`."""

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from neuron_lib.text.formats.blocks import Block, BlockEnd, BlockReader
from neuron_lib.text.formats.rules import RuleMaker, RuleWriter
from neuron_lib.text.formats.spelling import Speller
from neuron_lib.text.formats.tool_format import OutputEvent, ParsedCall, Reader, Tools, Trigger
from neuron_lib.text.reasoning import prompt_opens_reasoning
from neuron_lib.text.tag_splitter import Markers, cut_at_tag
from neuron_lib.types import ReasoningDelta, TextDelta, ToolCall

__all__ = ("CallIds", "MarkedFormat", "MarkedReader", "numbered_ids", "plain_reader", "spells")

CallIds: TypeAlias = Callable[[int, str, Callable[[int], str]], str]
"""Makes the id of a call from its index, the function's name, and a source of random hex digits (a number of bytes)."""


_SPACE: Final = " \t\n\r\v\f"


def numbered_ids(index: int, _name: str, token_hex: Callable[[int], str]) -> str:
    """The usual id of a call."""
    return f"call_{token_hex(8)}_{index}"


def spells(*texts: str) -> Callable[[str], bool]:
    """A test whether a template spells all of these texts."""
    return lambda template: all(text in template for text in texts)


def _no_template(_template: str) -> bool:
    return False


@dataclass(slots=True, frozen=True, kw_only=True)
class MarkedFormat:
    """See `ToolFormat`.

    - `blocks`: the kinds of blocks with calls.
    - `leads`: markers that may stand before a block, such as the beginning of a section of several calls. If no call
      follows, they are text.
    - `trails`: markers that may stand behind a block. Elsewhere they are text.
    - `separators`: characters that may stand between two blocks, beside white space.
    - `dropped`: markers that are never text, such as those around the answer.
    - `answer`: markers around the answer behind reasoning, which are not text.
    - `prompt_end`: the end of every prompt that belongs to the first block or marker of the reply.
    - `calls_in_reasoning`: whether a call that stands in reasoning is one. Otherwise it is part of the reasoning.
    - `reasoning`: the family's own markers around reasoning. None: the vocabulary decides.
    - `write_rules`: adds the rule `calls` for tools. It is told whether several calls may follow one another.
    - `recognises`: whether a template asks for calls in this format. It needs not check that the template shows tools.
    - `own_triggers`: what `triggers` are instead of `leads`, or without these the openings of the blocks.
    - `more_shown`: further markers inside blocks that must be visible.
    - `ids`: makes the ids of calls. `spell`: see `ToolFormat.spelled`.
    """

    name: str
    blocks: tuple[Block, ...]
    leads: tuple[str, ...] = ()
    trails: tuple[str, ...] = ()
    separators: str = ""
    dropped: tuple[str, ...] = ()
    answer: Markers | None = None
    prompt_end: str = ""
    calls_in_reasoning: bool = True
    reasoning: Markers | None = None
    write_rules: RuleMaker
    recognises: Callable[[str], bool] = _no_template
    more_shown: tuple[str, ...] = ()
    own_triggers: tuple[Trigger, ...] | None = None
    ids: CallIds = field(default=numbered_ids)
    spell: Speller | None = None

    @property
    def shown_tokens(self) -> tuple[str, ...]:
        around = () if self.reasoning is None else (self.reasoning.open, self.reasoning.close)
        marked = (block for block in self.blocks if not block.is_first)
        marks = (text for block in marked for text in (*block.opens, *block.closes))
        return tuple(dict.fromkeys((*marks, *self.leads, *self.trails, *self.dropped, *around, *self.more_shown)))

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        if self.own_triggers is not None:
            return self.own_triggers
        if self.leads:
            return tuple(map(Trigger, self.leads))
        return tuple(Trigger(text, block.is_first) for block in self.blocks for text in block.opens)

    def fits(self, template: str) -> bool:
        return self.recognises(template)

    def starts_in_reasoning(self, prompt_end: str, reasoning: Markers | None) -> bool:
        return reasoning is not None and prompt_opens_reasoning(prompt_end, reasoning)

    def reader(
        self,
        *,
        tools: Tools = (),
        reasoning: Markers | None = None,
        starts_in_reasoning: bool = False,
        include_thinking: bool = False,
        token_hex: Callable[[int], str] = secrets.token_hex,
    ) -> "MarkedReader":
        return MarkedReader(
            self,
            tools=tools,
            reasoning=reasoning,
            starts_in_reasoning=starts_in_reasoning,
            include_thinking=include_thinking,
            token_hex=token_hex,
        )

    def spelled(self, calls: Sequence[ParsedCall]) -> str:
        return "" if self.spell is None else self.spell(calls)

    def call_rules(self, tools: Tools, *, parallel: bool, tokens: Mapping[str, int]) -> str:
        writer = RuleWriter(tokens)
        self.write_rules(writer, tools, parallel)
        return writer.source


def plain_reader() -> Reader:
    """A reader for a reply that is all answer."""
    return _PLAIN.reader()


class MarkedReader:
    """See `Reader`.

    A block that is not understood stays text of the answer or the reasoning around it, with its markers. A block that
    is understood ends the reasoning around it. White space at the beginning of the answer is dropped if a call or
    reasoning follows. White space between a call or reasoning and the answer behind it is always dropped.
    """

    __slots__ = (
        "_answer_close",
        "_bare",
        "_block",
        "_calls_seen",
        "_drops_close",
        "_format",
        "_has_reasoned",
        "_include_thinking",
        "_is_first",
        "_is_in_thought",
        "_is_plain",
        "_known_tags",
        "_lead",
        "_may_repeat_open",
        "_openers",
        "_opening",
        "_owed_marker",
        "_pending",
        "_prompt_end",
        "_reasoning",
        "_skips_space",
        "_token_hex",
        "_tools",
    )

    def __init__(
        self,
        format_: MarkedFormat,
        *,
        tools: Tools,
        reasoning: Markers | None,
        starts_in_reasoning: bool,
        include_thinking: bool,
        token_hex: Callable[[int], str],
    ) -> None:
        self._format = format_
        self._tools = tools
        self._reasoning = reasoning
        self._include_thinking = include_thinking
        self._token_hex = token_hex
        blocks = format_.blocks if tools else ()
        self._openers = {text: block for block in blocks if not block.is_first for text in block.opens}
        self._bare = {text: block for block in blocks if block.is_first for text in block.opens}
        self._known_tags: dict[tuple[object, ...], tuple[Sequence[str], re.Pattern[str]]] = {}
        self._is_plain = reasoning is None and not (blocks or format_.dropped or format_.prompt_end)
        self._calls_seen = 0
        self._pending = format_.prompt_end  # text that is not read yet
        self._prompt_end = format_.prompt_end  # the text at the beginning that is not the reply's
        # The block in which the reply is now, and the text that has opened it.
        self._block: BlockReader | None = None
        self._opening = ""
        # White space and markers that are dropped if a call follows, and are text otherwise.
        self._lead = ""
        # Whether nothing but white space was answered so far, or since the last call or reasoning.
        self._is_first = True
        self._skips_space = False
        self._has_reasoned = False
        self._answer_close = ""  # the marker that closes the answer, if its opening marker was there
        # A call has ended the reasoning, and the closing marker of the reasoning may still come.
        self._drops_close = False
        self._is_in_thought = reasoning is not None and starts_in_reasoning
        # The prompt may have opened the reasoning. Then the reader of the reply has not seen the opening marker yet.
        self._owed_marker = reasoning.open if reasoning is not None and starts_in_reasoning else ""
        # The reply may begin with the opening marker although the prompt has ended with it.
        self._may_repeat_open = self._is_in_thought

    @property
    def in_reasoning(self) -> bool:
        return self._is_in_thought and self._block is None

    @property
    def may_owe_text(self) -> bool:
        lead = self._lead.strip() if self._skips_space else self._lead
        is_holding = self._block is not None or bool(self._pending or lead)
        return is_holding and (self._include_thinking or not self._is_in_thought)

    @property
    def tool_calls_seen(self) -> int:
        return self._calls_seen

    def feed(self, text: str) -> list[OutputEvent]:
        if self._is_plain:
            return [TextDelta(text)] if text else []
        events: list[OutputEvent] = []
        self._pending += text
        while self._pending and self._advance(events):
            pass
        return events

    def finish(self, *, is_cut: bool = False) -> list[OutputEvent]:
        events: list[OutputEvent] = []
        while self._block is not None:
            end = self._block.finish(is_cut=is_cut)
            if is_cut and not end.calls:
                self._block, self._lead = None, ""
                break
            self._end_block(end, events)
            while self._pending and self._advance(events):
                pass
        rest, self._pending = self._pending, ""
        if is_cut and self._marker_is_begun(rest):
            self._lead = rest = ""
        self._say(self._lead + rest, events)
        if self._is_in_thought and self._include_thinking and not self._owed_marker:
            assert self._reasoning is not None  # there is no thought otherwise
            _append_text(events, self._reasoning.close)
        return events

    # ---------------------------------------------------------------------------------------------------- step by step

    def _advance(self, events: list[OutputEvent]) -> bool:
        """Read some of the pending text, which is not empty. Returns False if more text must come first."""
        if self._block is not None:
            text, self._pending = self._pending, ""
            end = self._block.feed(text)
            if end is not None:
                self._end_block(end, events)
            return end is not None
        if self._lead or self._may_repeat_open or (self._is_first and not self._is_in_thought):
            return self._advance_first(events)
        return self._cut(events)

    def _advance_first(self, events: list[OutputEvent]) -> bool:
        """Read at a place where white space may belong to a call or to reasoning that follows. Only what stands exactly
        here decides, and this is known as soon as no tag can come of it any more.
        """
        text = self._pending.lstrip(_SPACE + self._format.separators if self._calls_seen else _SPACE)
        space = len(self._pending) - len(text)
        tags, _ = self._tags(is_first=self._is_first)
        if not tags or (text and not any(tag.startswith(text) or text.startswith(tag) for tag in tags)):
            self._is_first = self._is_first and self._is_in_thought
            self._may_repeat_open = False
            return self._cut(events)
        self._lead, self._pending = self._lead + self._pending[:space], text
        if any(len(tag) > len(text) and tag.startswith(text) for tag in tags):
            return False
        tag = max(filter(text.startswith, tags), key=len)
        self._pending = text[len(tag) :]
        self._take_tag(tag, events)
        return True

    def _cut(self, events: list[OutputEvent]) -> bool:
        """Read up to the next tag."""
        lead, self._lead = self._lead, ""
        tags, hint = self._tags(is_first=False)
        if hint.search(self._pending) is None:
            before, tag, rest = self._pending, None, ""
        else:
            before, tag, rest = cut_at_tag(self._pending, tags)
        before, self._pending = lead + before, rest
        if self._tools and not self._is_in_thought:  # white space in front of a call is dropped
            settled = before.rstrip(_SPACE)
            before, self._lead = settled, before[len(settled) :]
        self._say(before, events)
        if tag is None:
            return False
        longer = [each for each in tags if len(each) > len(tag) and each.startswith(tag)]
        if any(len(each) > len(tag + rest) and each.startswith(tag + rest) for each in longer):
            self._pending = tag + rest
            return False
        whole = max((each for each in longer if (tag + rest).startswith(each)), key=len, default=tag)
        self._pending = (tag + rest)[len(whole) :]
        self._take_tag(whole, events)
        return True

    def _tags(self, *, is_first: bool) -> tuple[Sequence[str], re.Pattern[str]]:
        """The tags that have a meaning at this point of the reply, and a pattern for their first characters.

        They are made once for each kind of point, because this is asked for every token.
        """
        kind = (
            is_first,
            self._is_in_thought,
            self._drops_close,
            self._may_repeat_open,
            self._has_reasoned,
            self._answer_close,
            self._calls_seen > 0,
        )
        known = self._known_tags.get(kind)
        if known is None:
            tags = self._meant(is_first=is_first)
            firsts = "".join({re.escape(tag[0]) for tag in tags})
            known = self._known_tags[kind] = tags, re.compile(f"[{firsts}]" if firsts else "(?!)")
        return known

    def _meant(self, *, is_first: bool) -> Sequence[str]:
        """The tags that have a meaning at this point of the reply."""
        reasoning = self._reasoning
        tags = [*self._openers, *self._format.dropped]
        if self._answer_close:
            tags.append(self._answer_close)
        if self._tools:
            tags += self._format.leads
        if self._is_in_thought:
            assert reasoning is not None  # there is no thought otherwise
            if not self._format.calls_in_reasoning:
                tags = [*self._format.dropped]
            return (reasoning.close, *((reasoning.open,) if self._may_repeat_open else ()), *tags)
        if reasoning is not None:
            tags.append(reasoning.open)
            if self._drops_close or (is_first and not self._include_thinking):
                tags.append(reasoning.close)
        if is_first:
            tags += self._bare
            if self._has_reasoned and self._format.answer is not None:
                tags.append(self._format.answer.open)
            tags += self._format.trails if self._calls_seen else ()
        return tags

    def _take_tag(self, tag: str, events: list[OutputEvent]) -> None:
        reasoning = self._reasoning
        if block := self._openers.get(tag) or self._bare.get(tag):
            self._open(tag, block)
        elif self._tools and tag in self._format.leads:
            self._lead += tag
        elif reasoning is not None and tag == reasoning.open:
            if not self._is_in_thought:
                self._enter_reasoning(tag, events)
            self._may_repeat_open = False
        elif self._is_in_thought:
            self._leave_reasoning(events)
        else:
            self._drop(tag)

    def _drop(self, tag: str) -> None:
        """Leave out a marker between texts of the answer."""
        self._prompt_end = ""
        answer, reasoning = self._format.answer, self._reasoning
        if answer is not None and tag == answer.open:
            self._answer_close = answer.close
        elif tag == self._answer_close:
            self._answer_close = ""
        is_close = reasoning is not None and tag == reasoning.close
        self._skips_space = self._skips_space or self._is_first or is_close
        self._drops_close = self._drops_close and not is_close

    def _enter_reasoning(self, tag: str, events: list[OutputEvent]) -> None:
        lead, self._lead = self._lead, ""
        if lead.strip() or self._include_thinking or not self._is_first:
            self._say(lead, events)
        self._is_in_thought, self._drops_close = True, False
        if self._include_thinking:
            self._say(tag, events)

    def _leave_reasoning(self, events: list[OutputEvent]) -> None:
        """The closing marker has come, or a marker of the answer that follows."""
        assert self._reasoning is not None  # there is no thought otherwise
        lead, self._lead = self._lead, ""
        self._say(lead + (self._reasoning.close if self._include_thinking else ""), events)
        self._skips_space = not self._include_thinking
        self._is_in_thought = False
        self._is_first = self._has_reasoned = True

    # -------------------------------------------------------------------------------------------------- blocks of calls

    def _open(self, opening: str, block: Block) -> None:
        breaks = (self._reasoning.close,) if self._is_in_thought and self._reasoning is not None else ()
        self._opening = opening
        self._block = block.start(opening, self._tools, breaks)

    def _end_block(self, end: BlockEnd, events: list[OutputEvent]) -> None:
        self._block = None
        lead, self._lead = self._lead, ""
        self._pending = end.rest + self._pending
        if end.calls:
            self._take_calls(end.calls, events)
        else:
            self._say(lead + self._opening + end.text, events)

    def _take_calls(self, calls: Sequence[ParsedCall], events: list[OutputEvent]) -> None:
        if self._is_in_thought:
            self._drops_close = True
            if self._include_thinking and self._reasoning is not None and not self._owed_marker:
                _append_text(events, self._reasoning.close)
            self._owed_marker = ""
        self._is_in_thought = False
        self._is_first = self._skips_space = True
        self._prompt_end = ""
        for call in calls:
            index = self._calls_seen
            call_id = self._format.ids(index, call.name, self._token_hex)
            events.append(ToolCall(index=index, id=call_id, name=call.name, arguments=call.arguments))
            self._calls_seen += 1

    def _marker_is_begun(self, rest: str) -> bool:
        """Whether the end of a reply that was cut is the beginning of a marker, or of a call."""
        if self._tools and self._lead.strip():
            return True
        marks = (*self._meant(is_first=True), *(self._format.leads if self._tools else ()))
        return len(rest) > 1 and any(mark.startswith(rest) for mark in marks)

    # ------------------------------------------------------------------------------------------------------------- text

    def _say(self, text: str, events: list[OutputEvent]) -> None:
        """Give out text of the answer or of the reasoning."""
        text, self._prompt_end = text.removeprefix(self._prompt_end), ""
        if not text:
            return
        if self._is_in_thought:
            if self._include_thinking:
                _append_text(events, self._owed_marker + text)
                self._owed_marker = ""
            else:
                events.append(ReasoningDelta(text))
        elif answer := text.lstrip() if self._skips_space else text:
            self._skips_space = self._is_first = False
            _append_text(events, answer)


def _append_text(events: list[OutputEvent], text: str) -> None:
    """Add text to the answer. Adjacent texts become one event, because each event costs its reader a message."""
    match events:
        case [*_, TextDelta(text=earlier)]:
            events[-1] = TextDelta(earlier + text)
        case _:
            events.append(TextDelta(text))


def _no_rules(_writer: RuleWriter, _tools: Tools, _is_parallel: bool) -> None:  # noqa: FBT001 - see `RuleMaker`
    raise AssertionError("a plain text has no calls")


_PLAIN: Final = MarkedFormat(name="plain", blocks=(), write_rules=_no_rules)
