"""The output of a reply of OpenAI's `POST /v1/responses`: its items, and the events that tell how they come to be.

One state machine for streams and whole replies, so both have the same items. Pure. Items follow each other: the next
one begins when the one before it is complete.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias, assert_never

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

from neuron_lib.types import (
    Detokenized,
    Embedding,
    EventBeforeEnd,
    ReasoningDelta,
    Relevance,
    Started,
    TextDelta,
    Tokenized,
    ToolCall,
)
from neuron_lib.wire.openai_logprobs import WrittenToken, written

__all__ = ("CARRIED", "AnyOutputEvent", "Item", "OutputEvent", "OutputItems")

CARRIED: Final = "plain:"
"""The beginning of every `encrypted_content` that is written here. The reasoning follows as it is.

Nothing has to be kept secret from a client that has been sent the reasoning. But some clients send reasoning back only
if it has an `encrypted_content`.
"""

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]


# --------------------------------------------------------------------------------------------------------------- items


class _OutputText(Struct, tag_field="type", tag="output_text"):
    text: str
    annotations: tuple[()] = ()
    logprobs: tuple[WrittenToken, ...] = ()


class _SummaryText(Struct, tag_field="type", tag="summary_text"):
    text: str


class _MessageItem(Struct, tag_field="type", tag="message"):
    id: str
    status: ItemStatus
    content: tuple[_OutputText, ...]
    role: Literal["assistant"] = "assistant"


class _ReasoningItem(Struct, tag_field="type", tag="reasoning"):
    id: str
    status: ItemStatus
    summary: tuple[_SummaryText, ...]
    encrypted_content: str | UnsetType = UNSET


class _CallItem(Struct, tag_field="type", tag="function_call"):
    id: str
    status: ItemStatus
    call_id: str
    name: str
    arguments: str


Item: TypeAlias = _MessageItem | _ReasoningItem | _CallItem


# -------------------------------------------------------------------------------------------------------------- events


class OutputEvent(Struct, kw_only=True, tag_field="type"):
    """One event of a stream. The encoder sets `sequence_number` when it sends the event."""

    sequence_number: int = 0
    output_index: int


class _ItemAdded(OutputEvent, kw_only=True, tag="response.output_item.added"):
    item: Item


class _ItemDone(OutputEvent, kw_only=True, tag="response.output_item.done"):
    item: Item


class _InItem(OutputEvent, kw_only=True):
    item_id: str


class _InContent(_InItem, kw_only=True):
    content_index: Literal[0] = 0


class _PartAdded(_InContent, kw_only=True, tag="response.content_part.added"):
    part: _OutputText


class _TextAdded(_InContent, kw_only=True, tag="response.output_text.delta"):
    delta: str
    logprobs: tuple[WrittenToken, ...]


class _TextDone(_InContent, kw_only=True, tag="response.output_text.done"):
    text: str
    logprobs: tuple[WrittenToken, ...]


class _PartDone(_InContent, kw_only=True, tag="response.content_part.done"):
    part: _OutputText


class _InSummary(_InItem, kw_only=True):
    summary_index: Literal[0] = 0


class _SummaryPartAdded(_InSummary, kw_only=True, tag="response.reasoning_summary_part.added"):
    part: _SummaryText


class _SummaryAdded(_InSummary, kw_only=True, tag="response.reasoning_summary_text.delta"):
    delta: str


class _SummaryDone(_InSummary, kw_only=True, tag="response.reasoning_summary_text.done"):
    text: str


class _SummaryPartDone(_InSummary, kw_only=True, tag="response.reasoning_summary_part.done"):
    part: _SummaryText


class _ArgumentsAdded(_InItem, kw_only=True, tag="response.function_call_arguments.delta"):
    delta: str


class _ArgumentsDone(_InItem, kw_only=True, tag="response.function_call_arguments.done"):
    name: str
    arguments: str


AnyOutputEvent: TypeAlias = (
    _ItemAdded
    | _PartAdded
    | _TextAdded
    | _TextDone
    | _PartDone
    | _SummaryPartAdded
    | _SummaryAdded
    | _SummaryDone
    | _SummaryPartDone
    | _ArgumentsAdded
    | _ArgumentsDone
    | _ItemDone
)
"""Every `OutputEvent`, for the description of the service."""


# ---------------------------------------------------------------------------------------------- items under way


@dataclass(slots=True)
class _OpenMessage:
    """A message that is being written. `index` is its place in the output."""

    id: str
    index: int
    texts: list[str] = field(default_factory=list)
    tokens: list[WrittenToken] = field(default_factory=list)

    def item(self, status: ItemStatus) -> Item:
        return _MessageItem(self.id, status, () if status == "in_progress" else (self._part(),))

    def _part(self) -> _OutputText:
        return _OutputText("".join(self.texts), logprobs=tuple(self.tokens))

    def begin(self) -> OutputEvent:
        return _PartAdded(output_index=self.index, item_id=self.id, part=_OutputText(""))

    def add(self, delta: TextDelta | ReasoningDelta) -> OutputEvent:
        tokens = tuple(map(written, delta.logprobs)) if isinstance(delta, TextDelta) else ()
        self.texts.append(delta.text)
        self.tokens += tokens
        return _TextAdded(output_index=self.index, item_id=self.id, delta=delta.text, logprobs=tokens)

    def end(self) -> list[OutputEvent]:
        part = self._part()
        return [
            _TextDone(output_index=self.index, item_id=self.id, text=part.text, logprobs=part.logprobs),
            _PartDone(output_index=self.index, item_id=self.id, part=part),
        ]


@dataclass(slots=True)
class _OpenReasoning:
    """Reasoning that is being written. It is shown as a summary, because most clients show nothing else of it.

    If it `is_carried`, it is also in the field for encrypted reasoning.
    """

    id: str
    index: int
    is_carried: bool
    texts: list[str] = field(default_factory=list)

    def item(self, status: ItemStatus) -> Item:
        if status == "in_progress":
            return _ReasoningItem(self.id, status, ())
        part = self._part()
        return _ReasoningItem(self.id, status, (part,), CARRIED + part.text if self.is_carried else UNSET)

    def _part(self) -> _SummaryText:
        return _SummaryText("".join(self.texts))

    def begin(self) -> OutputEvent:
        return _SummaryPartAdded(output_index=self.index, item_id=self.id, part=_SummaryText(""))

    def add(self, delta: TextDelta | ReasoningDelta) -> OutputEvent:
        self.texts.append(delta.text)
        return _SummaryAdded(output_index=self.index, item_id=self.id, delta=delta.text)

    def end(self) -> list[OutputEvent]:
        part = self._part()
        return [
            _SummaryDone(output_index=self.index, item_id=self.id, text=part.text),
            _SummaryPartDone(output_index=self.index, item_id=self.id, part=part),
        ]


# ------------------------------------------------------------------------------------------------- the state machine


class OutputItems:
    """Makes the items of one reply from its events. Lives as long as the reply.

    White space alone begins no item. It is held until more text of its kind comes, and dropped when something else
    comes: many models write line breaks around their calls and their reasoning.
    """

    __slots__ = ("_carries_reasoning", "_done", "_has_answer", "_held", "_open", "_parallel", "_unique")

    def __init__(self, *, unique: str, parallel: bool, carries_reasoning: bool = False) -> None:
        """`unique` is a part of the ids of all items. A reply that is not `parallel` has one call at most.

        With `carries_reasoning` the items of reasoning have an `encrypted_content`.
        """
        self._unique = unique
        self._parallel = parallel
        self._carries_reasoning = carries_reasoning
        self._done: list[Item] = []
        self._has_answer = False
        self._open: _OpenMessage | _OpenReasoning | None = None
        self._held: list[TextDelta | ReasoningDelta] = []  # white space, all of one kind

    @property
    def items(self) -> tuple[Item, ...]:
        """The items that are complete."""
        return tuple(self._done)

    def add(self, event: EventBeforeEnd) -> list[OutputEvent]:
        """What the next event of the reply means for the output."""
        match event:
            case TextDelta():
                return self._write(event, is_same=isinstance(self._open, _OpenMessage))
            case ReasoningDelta():
                return self._write(event, is_same=isinstance(self._open, _OpenReasoning))
            case ToolCall():
                self._held.clear()
                is_one_too_many = event.index > 0 and not self._parallel
                return [] if is_one_too_many else [*self._close("completed"), *self._call(event)]
            case Started() | Embedding() | Relevance() | Tokenized() | Detokenized():
                return []
            case _:
                assert_never(event)

    def finish(self, *, is_cut: bool) -> list[OutputEvent]:
        """The reply is over. A reply that was not cut has a message or a call, even if nothing was said."""
        events: list[OutputEvent] = []
        if not is_cut and not self._has_answer:
            held = [delta for delta in self._held if isinstance(delta, TextDelta)]
            events += self._close("completed")
            events += self._begin(_OpenMessage(self._id("msg"), self._index))
            events += self._add(held)
        self._held.clear()
        return events + self._close("incomplete" if is_cut else "completed")

    def _write(self, delta: TextDelta | ReasoningDelta, *, is_same: bool) -> list[OutputEvent]:
        """Take a piece of a text. `is_same`: the item that is open is of its kind."""
        if is_same:
            self._held.clear()
            return self._add([delta])
        if self._held and type(self._held[0]) is not type(delta):
            self._held.clear()
        self._held.append(delta)
        if not delta.text.strip():
            return []
        events = self._close("completed")
        if isinstance(delta, TextDelta):
            events += self._begin(_OpenMessage(self._id("msg"), self._index))
        else:
            events += self._begin(_OpenReasoning(self._id("rs"), self._index, self._carries_reasoning))
        events += self._add(self._held)
        self._held.clear()
        return events

    def _begin(self, opened: _OpenMessage | _OpenReasoning) -> list[OutputEvent]:
        self._open = opened
        self._has_answer |= isinstance(opened, _OpenMessage)
        return [_ItemAdded(output_index=opened.index, item=opened.item("in_progress")), opened.begin()]

    def _add(self, deltas: Sequence[TextDelta | ReasoningDelta]) -> list[OutputEvent]:
        assert self._open is not None  # begun before
        return [self._open.add(delta) for delta in deltas]

    def _close(self, status: ItemStatus) -> list[OutputEvent]:
        if self._open is None:
            return []
        closed, self._open = self._open, None
        return [*closed.end(), self._complete(closed.item(status))]

    def _call(self, call: ToolCall) -> list[OutputEvent]:
        """All events of a call. A call comes whole, so its arguments are one piece."""
        self._has_answer = True
        item = _CallItem(self._id("fc"), "completed", call.id, call.name, call.arguments)
        begun = replace(item, status="in_progress", arguments="")
        index, arguments = self._index, call.arguments
        return [
            _ItemAdded(output_index=index, item=begun),
            _ArgumentsAdded(output_index=index, item_id=item.id, delta=arguments),
            _ArgumentsDone(output_index=index, item_id=item.id, name=call.name, arguments=arguments),
            self._complete(item),
        ]

    def _complete(self, item: Item) -> OutputEvent:
        event = _ItemDone(output_index=self._index, item=item)
        self._done.append(item)
        return event

    @property
    def _index(self) -> int:
        """The place of the item that is open or comes next."""
        return len(self._done)

    def _id(self, kind: str) -> str:
        return f"{kind}_{self._unique}{self._index:04x}"
