"""What a tool format is: how a family of models writes tool calls and reasoning. Interfaces only; knows no family."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias

from neuron_lib.text.tag_splitter import Markers
from neuron_lib.types import ReasoningDelta, TextDelta, ToolCall

__all__ = ("OutputEvent", "ParsedCall", "Reader", "ToolFormat", "Tools", "Trigger")

OutputEvent: TypeAlias = TextDelta | ReasoningDelta | ToolCall

Tools: TypeAlias = Sequence[Mapping[str, Any]]
"""The tools of a request, each as OpenAI writes it: `{"type": "function", "function": {"name": …}}`."""


class ParsedCall(NamedTuple):
    """The name of the called function, and its arguments as the text of a JSON object."""

    name: str
    arguments: str


class Trigger(NamedTuple):
    """A text that opens a call. With `is_first` only if nothing but white space was answered before it."""

    text: str
    is_first: bool = False


class Reader(Protocol):
    """Reads one reply from its first character to its last: `feed` each piece, then `finish` once.

    The events, with neighbours of one kind joined, do not depend on how the reply was cut into pieces. No event is
    empty. Lives as long as the reply.
    """

    @property
    def in_reasoning(self) -> bool:
        """Whether the text so far ends inside reasoning."""
        ...

    @property
    def may_owe_text(self) -> bool:
        """Whether some text is held back that may still become part of the answer."""
        ...

    @property
    def tool_calls_seen(self) -> int:
        """The number of tool calls that were understood."""
        ...

    def feed(self, text: str) -> list[OutputEvent]:
        """Add more text of the reply. Returns the events that are certain now, in order."""
        ...

    def finish(self, *, is_cut: bool = False) -> list[OutputEvent]:
        """End the reply. Returns the events for all text that was held back.

        `is_cut` says that the reply had no room to go on. Then a call that is not complete is dropped. In any other
        reply its text is shown.
        """
        ...


class ToolFormat(Protocol):
    """How one family of models writes tool calls and reasoning. Immutable; lives as long as the process."""

    @property
    def name(self) -> str:
        """The name in the configuration and in `/models`."""
        ...

    @property
    def reasoning(self) -> Markers | None:
        """The markers around reasoning if the family has markers of its own. None: the vocabulary decides."""
        ...

    @property
    def shown_tokens(self) -> tuple[str, ...]:
        """The markers. Those that are control tokens of the vocabulary must be spelled in the text of a reply."""
        ...

    @property
    def triggers(self) -> tuple[Trigger, ...]:
        """The texts that open a call. Behind one that begins what `call_rules` allows, only a call may follow.

        Without triggers a reply is bound only if it must call.
        """
        ...

    def fits(self, template: str) -> bool:
        """Whether the Jinja source `template` shows tools and asks for calls in this format. Linear in its length."""
        ...

    def starts_in_reasoning(self, prompt_end: str, reasoning: Markers | None) -> bool:
        """Whether a prompt that ends in `prompt_end` makes the reply start inside reasoning."""
        ...

    def reader(
        self,
        *,
        tools: Tools = (),
        reasoning: Markers | None = None,
        starts_in_reasoning: bool = False,
        include_thinking: bool = False,
        token_hex: Callable[[int], str] = secrets.token_hex,
    ) -> Reader:
        """A reader for one reply.

        `tools` are those of the request; without tools no calls are read. `reasoning` are the markers of the model,
        None if its reasoning is not to be read. With `include_thinking` the reasoning is part of the answer, inside
        its markers. `token_hex` makes the ids of the calls.
        """
        ...

    def spelled(self, calls: Sequence[ParsedCall]) -> str:
        """The text of these calls, for templates that do not show calls. "" where all templates of the family do."""
        ...

    def call_rules(self, tools: Tools, *, parallel: bool, tokens: Mapping[str, int]) -> str:
        """Rules in llguidance's Lark dialect. The rule `calls` is the text of one call, or of several if `parallel`.

        The calls are of `tools`, with arguments that fit the tools' schemas. `tokens` has the ids of those
        `shown_tokens` that the vocabulary spells as one special token. The names of all other rules begin with `call_`.
        """
        ...
