"""What binds the replies to a chat: its tools, its grammar and the budget of its reasoning, for one model."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import msgspec
from msgspec import structs

from neuron_lib.engine.protocol import ChatTask
from neuron_lib.errors import InvalidRequest
from neuron_lib.llama.grammar import Calls, special_tokens
from neuron_lib.llama.vocab import Vocab
from neuron_lib.sampling.binding import Mark, Plan, Reasoning, Rules
from neuron_lib.sampling.sampler import Constraint
from neuron_lib.text.formats.tool_format import ToolFormat, Tools
from neuron_lib.text.prefill import Prefill
from neuron_lib.text.reasoning import prompt_opens_reasoning
from neuron_lib.text.tag_splitter import Markers
from neuron_lib.types import Grammar, TextDelta

__all__ = ("Binder", "Bond")

_PROMPT_END_CHARS: Final = 200
_MOST_CALLS: Final = 16
"""Calls in a reply that must call. A small model that is not allowed to say anything else may call without end."""
_ANY_OBJECT: Final[Mapping[str, Any]] = {"type": "object"}
_OPENS_OBJECT: Final = frozenset(
    (
        "$ref",
        "additionalProperties",
        "allOf",
        "anyOf",
        "oneOf",
        "patternProperties",
        "propertyNames",
        "unevaluatedProperties",
    )
)
"""Keywords of a schema that say something about properties that it does not name."""


@dataclass(slots=True, frozen=True)
class Bond:
    """What binds the replies to one request. Immutable; lives as long as the request.

    `wanted` must be compiled first; None if nothing has to be. `plan` says where in a reply it binds. Without a plan it
    binds the whole reply. `begun` is the beginning of the text that it binds, if the prompt ends with one.
    """

    wanted: Grammar | Calls | None
    plan: Plan | None = None
    begun: str = ""

    def binding(self, rules: Rules | None) -> Callable[[], Constraint]:
        """What makes the constraint of each reply. `rules` are `wanted`, compiled."""
        if rules is not None and self.begun:
            # A text that the rules do not allow is not part of what they bind.
            rules = rules.after(self.begun.encode()) or rules
        if self.plan is not None:
            return replace(self.plan, rules=rules).begin
        assert rules is not None  # there is nothing else to bind a reply
        return rules.copy


class Binder:
    """Makes the bonds of requests, for one model. Any thread may use it."""

    def __init__(self, vocab: Vocab, *, tool_format: ToolFormat | None, reasoning: Markers | None) -> None:
        """`tool_format` is how the model calls tools, None if that is not known. `reasoning` are the markers around its
        reasoning, None if it does not reason.
        """
        self._vocab: Final = vocab
        self._format: Final = tool_format
        self._markers: Final = reasoning
        marks = [] if tool_format is None else [*tool_format.shown_tokens]
        marks += [] if reasoning is None else [reasoning.open, reasoning.close]
        self._tokens: Final = special_tokens(vocab, dict.fromkeys(marks))

    def starts_in_reasoning(self, prompt: str, prefill: Prefill | None) -> bool:
        """Whether the reply to a prompt begins inside reasoning, which the template or the last message has begun."""
        markers = self._markers
        if markers is None:
            return False
        if prefill is not None and prefill.is_reasoning:
            return True
        if prefill is not None and prefill.text.rfind(markers.open) > prefill.text.rfind(markers.close):
            return True
        end = prompt[-_PROMPT_END_CHARS:]
        if self._format is None:
            return prompt_opens_reasoning(end, markers)
        return self._format.starts_in_reasoning(end, markers)

    def bond(self, chat: ChatTask, *, prefill: Prefill | None, in_reasoning: bool) -> Bond | None:
        """What binds the replies to a chat with nothing unread; None if nothing does.

        Raises `InvalidRequest` for a choice of tools that cannot be kept.
        """
        begun = "" if prefill is None or prefill.is_reasoning else prefill.text
        if chat.tools and chat.tool_choice.mode != "none":
            return self._of_tools(chat, begun=begun, in_reasoning=in_reasoning)
        if chat.tool_choice.mode == "required":
            raise _refusal("a call is required, and there are no tools")
        if chat.grammar is not None:
            return Bond(chat.grammar, begun=begun)
        if chat.reasoning_budget is None or self._markers is None:
            return None
        return Bond(None, self._plan(chat, in_reasoning=in_reasoning))

    def _of_tools(self, chat: ChatTask, *, begun: str, in_reasoning: bool) -> Bond | None:
        choice, form = chat.tool_choice, self._format
        is_required = choice.mode == "required"
        if form is None:
            if is_required:
                raise _refusal("it is not known how this model calls tools, so it cannot be made to")
            if chat.grammar is not None:
                text = "tools: it is not known how this model calls tools, so a grammar cannot allow it"
                raise InvalidRequest(text, param="tools")
            return None if chat.reasoning_budget is None else Bond(None, self._plan(chat, in_reasoning=in_reasoning))
        if begun and _ends_inside_call(form, chat.tools, begun):
            text = "messages: the last message ends inside a tool call, which cannot be continued"
            raise InvalidRequest(text, param="messages")
        chosen = _chosen(chat.tools, choice.name)
        is_parallel = choice.parallel and choice.name is None  # a client that names a tool wants one call

        def rules(tools: Tools) -> str:
            return form.call_rules(tools, parallel=is_parallel, tokens=self._tokens)

        calls = Calls(
            rules=rules([_with_schema(tool, _closed(_schema(tool))) for _, tool in chosen]),
            looser=rules(
                [_with_schema(tool, _schema(tool) if _is_strict(tool) else _ANY_OBJECT) for _, tool in chosen]
            ),
            strict=tuple(_strict_schemas(chosen)),
            answer=None if is_required else chat.grammar,
        )
        binds_answer = is_required or chat.grammar is not None
        if binds_answer and not in_reasoning and chat.template_kwargs.get("enable_thinking") is False:
            # The client wants no reasoning. A small model that may not answer freely tends to reason before it calls.
            chat = structs.replace(chat, reasoning_budget=0)
        plan = replace(
            self._plan(chat, in_reasoning=in_reasoning),
            openings=tuple(self._openings(form, [str(_function(tool).get("name")) for _, tool in chosen])),
            binds_answer=binds_answer,
            is_repeated=is_parallel,
            most_calls=_MOST_CALLS if is_required else None,
        )
        return Bond(calls, plan, begun if binds_answer else "")

    def _plan(self, chat: ChatTask, *, in_reasoning: bool) -> Plan:
        """A plan that binds nothing but the reasoning."""
        markers = self._markers
        reasoning = None
        if markers is not None:
            reasoning = Reasoning(
                open=self._mark(markers.open), close=self._mark(markers.close), budget=chat.reasoning_budget
            )
        return Plan(
            piece=self._vocab.piece,
            spell=self.spell,
            eog=self._vocab.eog,
            reasoning=reasoning,
            starts_in_reasoning=in_reasoning,
        )

    def _openings(self, form: ToolFormat, names: Sequence[str]) -> Iterator[Mark]:
        """What opens a call. A bracket alone opens many answers; with the name of a tool behind it, it opens a call."""
        for trigger in form.triggers:
            texts = [trigger.text] if len(trigger.text) > 1 else [f"{trigger.text}{name}(" for name in names]
            for text in texts:
                yield self._mark(text, is_first=trigger.is_first)

    def _mark(self, text: str, *, is_first: bool = False) -> Mark:
        return Mark(text.encode(), self._tokens.get(text), is_first)

    def spell(self, text: str) -> Sequence[int]:
        """The tokens that write exactly this text, without the space that some tokenizers put before a text."""
        wanted = text.encode()
        for before in ("", "\n"):
            tokens = self._vocab.tokenize(before + text, add_special=False)
            pieces = [self._vocab.text(token) for token in tokens]
            for start in range(len(tokens)):
                if b"".join(pieces[start:]) == wanted:
                    return tokens[start:]
        return self._vocab.tokenize(text, add_special=False)


def _chosen(tools: Tools, name: str | None) -> list[tuple[int, Mapping[str, Any]]]:
    """The tools that may be called, with their places among all tools."""
    chosen = [(place, tool) for place, tool in enumerate(tools) if name is None or _function(tool).get("name") == name]
    if not chosen:
        raise _refusal("the tool that is to be called is not in `tools`")
    return chosen


def _ends_inside_call(form: ToolFormat, tools: Tools, text: str) -> bool:
    """Whether a part of `text` would be dropped if it were a reply that was cut at its end."""
    shown = []
    for is_cut in (False, True):
        reader = form.reader(tools=tools)
        events = [*reader.feed(text), *reader.finish(is_cut=is_cut)]
        shown.append("".join(event.text for event in events if isinstance(event, TextDelta)).strip())
    return shown[0] != shown[1]


def _function(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    function = tool.get("function")
    return function if isinstance(function, Mapping) else {}


def _schema(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of the arguments. These are an object, whatever the schema says: no reader takes anything else for a
    call.
    """
    schema = _function(tool).get("parameters")
    return {**schema, "type": "object"} if isinstance(schema, Mapping) else _ANY_OBJECT


def _closed(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema of an object. Properties that it does not name are not allowed, unless it says something about them:
    a function has no further parameters.
    """
    if "properties" in schema and _OPENS_OBJECT.isdisjoint(schema):
        return {**schema, "additionalProperties": False}
    return schema


def _with_schema(tool: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return {**tool, "function": {**_function(tool), "parameters": schema}}


def _is_strict(tool: Mapping[str, Any]) -> bool:
    return _function(tool).get("strict") is True or tool.get("strict") is True


def _strict_schemas(chosen: Sequence[tuple[int, Mapping[str, Any]]]) -> Iterator[tuple[str, str]]:
    """The schemas of strict tools, each with its field in the request."""
    for place, tool in chosen:
        if _is_strict(tool):
            yield msgspec.json.encode(_schema(tool)).decode(), f"tools[{place}].function.parameters"


def _refusal(problem: str) -> InvalidRequest:
    return InvalidRequest(f"tool_choice: {problem}", param="tool_choice")
