"""Writes prompts with the template of a model: which one, in which form, and what in them people wrote."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, Literal

from neuron_lib.engine.binder import Bond
from neuron_lib.engine.interruption import GivesWay, never_gives_way, within
from neuron_lib.engine.protocol import TemplateKind
from neuron_lib.errors import InvalidRequest, LoadFailed, TemplateFailed, cause_chain
from neuron_lib.text.chat_template import CHATML, ChatTemplate, with_arguments
from neuron_lib.text.control_text import ControlTexts, Disguise, Piece
from neuron_lib.text.formats import GENERIC, ToolFormat
from neuron_lib.text.formats.tool_format import ParsedCall
from neuron_lib.text.messages import fit_messages, has_text_arguments
from neuron_lib.text.prefill import Prefill, prefill_of
from neuron_lib.text.template_facts import TemplateFacts, template_facts
from neuron_lib.text.tool_prompt import described_tools, mentions_tools, shows_described_tools, with_tools_as_text

__all__ = ("Prompt", "PromptWriter", "Templates")

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class Templates:
    """The sources there are for one model: the operator's, the model's own, and the one it has for chats with tools."""

    configured: str | None = None
    own: str | None = None
    own_for_tools: str | None = None

    @property
    def kind(self) -> TemplateKind:
        """Whose template writes the prompts."""
        if self.configured is not None:
            return "configured"
        return "fallback" if self.own is None else "model"


@dataclass(slots=True, frozen=True)
class Prompt:
    """A written prompt. `pieces` tell foreign text apart, in a prompt whose messages spell a control token.
    `tokens` are set for a prompt that came as token ids; its `text` is "". `param` names the text of the request that
    it was made of, None for the messages of a chat. `prefill` is the beginning of the reply, if the prompt ends with
    one. `bond` binds the replies, which begin `in_reasoning` if the prompt ends there.
    """

    text: str
    pieces: Sequence[Piece] | None = None
    tokens: Sequence[int] | None = None
    param: str | None = None
    prefill: Prefill | None = None
    bond: Bond | None = None
    in_reasoning: bool = False


class PromptWriter:
    """Writes with the operator's template; without one with the model's own, or in ChatML if that has none.

    A template that is there is never replaced by another: one that does not work refuses every chat, with its cause.
    """

    def __init__(
        self,
        templates: Templates,
        *,
        bos_token: str,
        eos_token: str,
        controls: ControlTexts | None,
        limit_s: float,
        tool_format: ToolFormat = GENERIC,
    ) -> None:
        """Raises `LoadFailed` if the operator's template does not compile.

        `controls` are what must not be read as control tokens in messages, None to read it so. A chat is rendered
        within `limit_s` seconds. `tool_format` is the model's, for templates that do not show tools or calls.
        """
        self._controls: Final = controls
        self._limit_s: Final = limit_s
        self._spells_calls: Final = bool(tool_format.spelled([ParsedCall("f", "{}")]))
        self._spell: Final = tool_format.spelled if self._spells_calls else GENERIC.spelled
        self._facts: Final[dict[ChatTemplate, TemplateFacts]] = {}

        def compiled(source: str) -> ChatTemplate:
            return ChatTemplate(source, bos_token=bos_token, eos_token=eos_token)

        self._for_tools: ChatTemplate | TemplateFailed | None = None
        self._template: ChatTemplate | TemplateFailed
        match templates:
            case Templates(configured=str(source)):
                try:
                    self._template = compiled(source)
                except TemplateFailed as error:
                    raise LoadFailed("the configured `chat_template` is unusable") from error
            case Templates(own=str(source)):
                self._template = _or_failure(compiled, source)
                if templates.own_for_tools is not None:
                    self._for_tools = _or_failure(compiled, templates.own_for_tools)
            case _:
                logger.warning("the model has no chat template; ChatML is used")
                self._template = compiled(CHATML)

    def write(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]],
        template_kwargs: Mapping[str, Any],
        continues: bool | None = None,
        gives_way: GivesWay = never_gives_way,
    ) -> Prompt:
        """The prompt of a chat. It ends inside the last message if that is to be continued, see `prefill_of`.

        If the template shows no tools, the tools are described in the system message. Raises `TemplateFailed`,
        `InvalidRequest` for messages that the template cannot show and for a last message that cannot be continued, and
        `GaveWay`.
        """
        prefill = prefill_of(messages, continues=continues)
        is_for_tools = bool(tools) and self._for_tools is not None
        template = (self._for_tools if is_for_tools else None) or self._template
        if isinstance(template, TemplateFailed):
            raise TemplateFailed(template.message) from template.__cause__
        facts = self._known(template, is_for_tools=is_for_tools)
        described = () if facts.shows_tools else tools
        messages = self._told(messages, described, facts)
        tools = tools if facts.shows_tools else ()
        forms: list[Literal["object", "text"]] = [facts.arguments]
        if has_text_arguments(messages):
            forms.append("text" if facts.arguments == "object" else "object")

        def rendered(prefill: Prefill | None) -> Prompt:
            failure: TemplateFailed | None = None
            for form in forms:
                try:
                    return self._rendered(
                        template,
                        facts,
                        [with_arguments(message, form) for message in _fitted(messages, prefill, facts)],
                        tools=tools,
                        template_kwargs=template_kwargs,
                        prefill=prefill,
                        arguments=form,
                    )
                except TemplateFailed as error:
                    failure = failure or error
                except RecursionError as error:
                    raise InvalidRequest("messages: nested too deeply", param="messages") from error
            assert failure is not None  # there is at least one form
            raise failure

        try:
            prompt = within(self._limit_s, partial(rendered, prefill), gives_way=gives_way)
        except InvalidRequest:
            if prefill is None or not prefill.is_reasoning or continues:
                raise
            # The template does not show the reasoning, and the request does not ask to continue it. So it is left out.
            prompt = within(self._limit_s, partial(rendered, prefill.without_reasoning()), gives_way=gives_way)
        if described and not shows_described_tools(prompt.text):
            text = "tools: this model cannot be given tools, its chat template does not show them"
            raise InvalidRequest(text, param="tools")
        return prompt

    def _told(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]], facts: TemplateFacts
    ) -> Sequence[Mapping[str, Any]]:
        """The messages with everything about tools that the template does not show by itself. `tools` are those that it
        does not show.
        """
        if not (tools or mentions_tools(messages)):
            return messages
        if facts.shows_tools:
            is_told = facts.shows_calls or not self._spells_calls
            return messages if is_told else with_tools_as_text(messages, (), spell=self._spell, keeps_results=True)
        if facts.shows_calls and facts.shows_results:
            return described_tools(messages, tools, spell=self._spell)
        return with_tools_as_text(messages, tools, spell=self._spell, keeps_results=False)

    def _rendered(
        self,
        template: ChatTemplate,
        facts: TemplateFacts,
        messages: list[dict[str, Any]],
        *,
        tools: Sequence[Mapping[str, Any]],
        template_kwargs: Mapping[str, Any],
        prefill: Prefill | None,
        arguments: Literal["object", "text"],
    ) -> Prompt:
        own_kwargs = {} if prefill is None else {"add_generation_prompt": False}
        chat: list[Any] = [*messages, list(tools), {**template_kwargs, **own_kwargs}]
        disguised = None
        if self._controls is not None:
            # What a template searches for in the model's own turns, the end of reasoning perhaps, it must find.
            allowed = [facts.searched if message.get("role") == "assistant" else () for message in messages]
            values = list(zip(chat, (*allowed, (), ()), strict=True))
            disguised = Disguise.of(self._controls, values, cutters=facts.cutters)
        if disguised is not None:
            chat = disguised[0]
        *shown, shown_tools, shown_kwargs = chat
        text = template.render(
            shown,
            tools=shown_tools,
            template_kwargs=shown_kwargs,
            arguments=arguments,
            now=lambda: datetime.now().astimezone(),
        )
        if prefill is not None:
            text = prefill.cut(text)
        prompt = Prompt(text, prefill=prefill)
        if disguised is not None:
            prompt = Prompt(disguised[1].reveal(text), disguised[1].pieces(text), prefill=prefill)
        if not facts.shows_results:
            _refuse_lost_results(messages, prompt.text)
        return prompt

    def _known(self, template: ChatTemplate, *, is_for_tools: bool) -> TemplateFacts:
        """The facts of `template`, found out when they are first needed: only the thread that renders can be timed."""
        facts = self._facts.get(template)
        if facts is None:
            try:
                facts = within(self._limit_s, partial(template_facts, template, is_for_tools=is_for_tools))
            except TemplateFailed:  # the time was up
                facts = TemplateFacts.of_source(template)
            self._facts[template] = facts
        return facts


def _fitted(
    messages: Sequence[Mapping[str, Any]], prefill: Prefill | None, facts: TemplateFacts
) -> list[dict[str, Any]]:
    """The messages in the form that the template can show. A message that is continued stays the last one."""
    if prefill is None:
        return fit_messages(messages, facts)
    return [*fit_messages(messages[:-1], facts), *fit_messages([prefill.message], facts)]


def _refuse_lost_results(messages: Sequence[Mapping[str, Any]], prompt: str) -> None:
    """Raise `InvalidRequest` for the result of a tool that a template has left out of the prompt."""
    for message in messages:
        content = message.get("content")
        if message.get("role") in {"tool", "function"} and isinstance(content, str) and content.strip() not in prompt:
            text = "messages: the chat template of this model does not show the results of tools"
            raise InvalidRequest(text, param="messages")


def _or_failure(compiled: Callable[[str], ChatTemplate], source: str) -> ChatTemplate | TemplateFailed:
    """The template, or why it does not compile: a model that cannot chat may still be looked at."""
    try:
        return compiled(source)
    except TemplateFailed as error:
        logger.warning("the model's chat template is unusable, every chat will be refused: %s", cause_chain(error))
        return error
