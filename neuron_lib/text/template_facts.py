"""What a chat template does with messages, found out by rendering a few short chats with it.

A template does not declare what it can show. If it raises on a message, or leaves it out, it cannot show it.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final, Literal, Self

from neuron_lib.errors import TemplateFailed
from neuron_lib.text.chat_template import ChatTemplate

__all__ = ("REASONING_KEYS", "TemplateFacts", "template_facts")

_ROLES: Final = ("system", "user", "assistant", "tool")
REASONING_KEYS: Final = ("reasoning_content", "reasoning", "thinking")
"""The keys under which clients and templates have the reasoning of a message."""

_ABOUT_REASONING: Final = re.compile("^(?!.*tool).*(?:think|thought|reason|channel|response|analysis)", re.IGNORECASE)

_MARK: Final = "zqmarkqz"
_NAME: Final = "zqfunctionqz"
_KEY: Final = "zqkeyqz"
_SHORT_ID: Final = "zq1234567"
_LONG_ID: Final = "call_zq1234567_0"
_AS_DATA: Final = re.compile(rf"""['"]text['"]: ?['"]{_MARK}""")
"""Matches a part that was written as an object although its text was meant."""
_TOOLS: Final[Sequence[Mapping[str, Any]]] = (
    {
        "type": "function",
        "function": {
            "name": _NAME,
            "description": "Finds out.",
            "parameters": {"type": "object", "properties": {_KEY: {"type": "string", "description": "What."}}},
        },
    },
)


@dataclass(slots=True, frozen=True)
class TemplateFacts:
    """The form that messages must have for one template. Immutable. Lives as long as the template.

    - `takes_system`, `takes_two_systems`, `takes_later_system`: whether the template takes a system message, several at
      the beginning, and more after other messages. The same holds for developer messages if it knows developers.
    - `text_roles`, `part_roles`: the roles whose content it shows as one text, and as a list of parts.
    - `shows_tools`, `shows_calls`: whether it shows the tools of a request, and the calls of earlier turns.
    - `wants_short_ids`: whether it takes only ids of calls of nine letters and digits.
    - `reasoning_key`: the key under which it reads the reasoning of earlier turns. None if it reads none, or if it
      reads reasoning in parts of type `thinking` (`reads_thinking_parts`).
    - `takes_reasoning_beside_text`: whether a turn with tool calls may have both.
    - `words`, `cutters`: those of the template. `searched`: what it searches contents for to find reasoning.
    """

    knows_developer: bool = False
    takes_system: bool = True
    takes_two_systems: bool = True
    takes_later_system: bool = True
    text_roles: frozenset[str] = frozenset(_ROLES)
    part_roles: frozenset[str] = frozenset()
    arguments: Literal["object", "text"] = "object"
    shows_tools: bool = True
    shows_calls: bool = True
    wants_short_ids: bool = False
    reasoning_key: str | None = None
    reads_thinking_parts: bool = False
    takes_reasoning_beside_text: bool = True
    words: frozenset[str] = frozenset()
    cutters: tuple[str, ...] = ()
    searched: tuple[str, ...] = ()

    @property
    def shows_results(self) -> bool:
        """Whether the template shows the results of tools."""
        return "tool" in self.text_roles | self.part_roles

    @classmethod
    def of_source(cls, template: ChatTemplate) -> Self:
        """The facts without a rendering. With these, messages reach the template as they are sent."""
        searched = tuple(filter(_ABOUT_REASONING.search, template.searched))
        return cls(words=template.words, cutters=template.cutters, searched=searched)


def template_facts(template: ChatTemplate, *, is_for_tools: bool = False) -> TemplateFacts:
    """The facts of `template`. Renders about two dozen chats, so it blocks for some time.

    With `is_for_tools` all chats have tools, for a template that is used only for requests with tools.
    """
    return _Probe(template, _TOOLS if is_for_tools else ()).facts()


class _Probe:
    """Renders chats with one template."""

    def __init__(self, template: ChatTemplate, tools: Sequence[Mapping[str, Any]]) -> None:
        self._template = template
        self._tools = tools
        self._wants_parts = False
        self._arguments: Literal["object", "text"] = "object"

    def facts(self) -> TemplateFacts:
        unknown = TemplateFacts.of_source(self._template)
        self._wants_parts = not self._shows_text("user") and self._shows_parts("user")
        if not (self._wants_parts or self._shows_text("user")):
            return unknown
        self._arguments = self._form_of_arguments()  # first, because the chats below have tool calls
        knows_developer = "developer" in self._template.words and self._shows("developer")
        others = ("system", "developer") if knows_developer else ("system",)
        key = self._shown_reasoning_key()
        reads_thinking_parts = key is None and self._reads_thinking_parts()
        if key is None and not reads_thinking_parts:
            key = next((name for name in REASONING_KEYS if name in self._template.words), None)
        return replace(
            unknown,
            knows_developer=knows_developer,
            takes_system=self._shows("system"),
            takes_two_systems=all(self._shows_second(other, is_later=False) for other in others),
            takes_later_system=all(self._shows_second(other, is_later=True) for other in others),
            text_roles=frozenset(filter(self._shows_text, _ROLES)),
            part_roles=frozenset(filter(self._shows_parts, _ROLES)),
            arguments=self._arguments,
            shows_tools=self._shows_tools(),
            shows_calls=self._shows_calls(),
            wants_short_ids=self._wants_short_ids(),
            reasoning_key=key,
            reads_thinking_parts=reads_thinking_parts,
            takes_reasoning_beside_text=key is None or self._takes_beside_text(key),
        )

    def _render(self, *messages: Mapping[str, Any], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
        """The prompt, or "" if the template cannot render it."""
        try:
            return self._template.render(
                messages,
                tools=self._tools if tools is None else tools,
                arguments=self._arguments,
                now=lambda: datetime(2026, 1, 2, tzinfo=UTC),
            )
        except TemplateFailed:
            return ""

    def _say(self, role: str, text: str, **more: Any) -> dict[str, Any]:
        content = [{"type": "text", "text": text}] if self._wants_parts else text
        return {"role": role, "content": content, **more}

    def _called(self, arguments: object, *, call_id: str = _SHORT_ID, **more: Any) -> tuple[Mapping[str, Any], ...]:
        """A chat with a tool call, up to the result of the call."""
        call = {"id": call_id, "type": "function", "function": {"name": _NAME, "arguments": arguments}}
        result = {"tool_call_id": call_id, "name": _NAME}
        asked = {"role": "assistant", "content": None, "tool_calls": [call], **more}
        return self._say("user", "Hi"), asked, self._say("tool", "3", **result)

    def _chat_with(self, role: str, content: object) -> tuple[Mapping[str, Any], ...]:
        """A chat in which one message of `role` has this content."""
        message = {"role": role, "content": content}
        match role:
            case "user":
                return (message,)
            case "assistant":
                return self._say("user", "Hi"), message, self._say("user", "Ho")
            case "tool":
                *before, result = self._called({_KEY: "a"})
                return *before, {**result, "content": content}
            case _:
                return message, self._say("user", "Hi")

    def _shows(self, role: str) -> bool:
        return self._shows_text(role) or self._shows_parts(role)

    def _shows_second(self, role: str, *, is_later: bool) -> bool:
        """Whether both are shown: a system message, and a message of `role` after it, or after one more turn if
        `is_later`.
        """
        before = [self._say("system", _NAME), *(self._chat_with("assistant", "Ho")[:2] if is_later else ())]
        forms = (_MARK, [{"type": "text", "text": _MARK}])
        prompts = (self._render(*before, {"role": role, "content": form}, self._say("user", "Hi")) for form in forms)
        return any(_MARK in prompt and _NAME in prompt for prompt in prompts)

    def _shows_text(self, role: str) -> bool:
        return _MARK in self._render(*self._chat_with(role, _MARK))

    def _shows_parts(self, role: str) -> bool:
        parts = [{"type": "text", "text": _MARK}, {"type": "text", "text": _NAME + _KEY}]
        prompt = self._render(*self._chat_with(role, parts))
        return _MARK in prompt and _NAME + _KEY in prompt and _AS_DATA.search(prompt) is None

    def _form_of_arguments(self) -> Literal["object", "text"]:
        """The form in which arguments are shown as JSON. Objects are tried first, because most templates write them as
        JSON.
        """
        prompt = self._render(*self._called({_KEY: _MARK}))
        if _MARK in prompt and f"'{_KEY}'" not in prompt:
            return "object"
        self._arguments = "text"
        return "text" if _MARK in self._render(*self._called({_KEY: _MARK})) else "object"

    def _shows_tools(self) -> bool:
        user = self._say("user", "Hi")
        chats = ((user,), (self._say("system", "Be kind."), user))
        return any(_NAME in self._render(*chat, tools=_TOOLS) for chat in chats)

    def _shows_calls(self) -> bool:
        prompt = self._render(*self._called({_KEY: _MARK}))
        return _MARK in prompt and _NAME in prompt

    def _wants_short_ids(self) -> bool:
        is_long_shown = self._render(*self._called({_KEY: "a"}, call_id=_LONG_ID))
        return not is_long_shown and bool(self._render(*self._called({_KEY: "a"})))

    def _shown_reasoning_key(self) -> str | None:
        """The first key that the template shows in one of two chats."""
        for key in filter(self._template.words.__contains__, REASONING_KEYS):
            thought = {key: _MARK}
            turn = self._say("user", "Hi"), self._say("assistant", "Ho", **thought), self._say("user", "Hi")
            if any(_MARK in self._render(*chat) for chat in (self._called({_KEY: "a"}, **thought), turn)):
                return key
        return None

    def _reads_thinking_parts(self) -> bool:
        if "thinking" not in self._template.words:
            return False
        parts = [{"type": "thinking", "thinking": _MARK}, {"type": "text", "text": _NAME}]
        prompt = self._render(*self._chat_with("assistant", parts))
        return _MARK in prompt and _NAME in prompt and "'type'" not in prompt

    def _takes_beside_text(self, reasoning_key: str) -> bool:
        """Whether a turn with tool calls may have a text and reasoning. Also true if such a turn may have no reasoning
        at all.
        """
        thought = {reasoning_key: _MARK}
        both = thought | self._say("assistant", "Ho")
        return bool(self._render(*self._called({_KEY: "a"}, **both)) or not self._render(*self._called({}, **thought)))
