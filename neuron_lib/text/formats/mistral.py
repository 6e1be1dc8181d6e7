"""Mistral, Devstral, Magistral, Ministral: `[TOOL_CALLS]` in front of a list, or of each name with its arguments."""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from neuron_lib.text.formats.arguments import parse_arguments
from neuron_lib.text.formats.bare import BARE
from neuron_lib.text.formats.blocks import ValueBlock
from neuron_lib.text.formats.json_calls import parse_tool_calls
from neuron_lib.text.formats.marked import MarkedFormat, spells
from neuron_lib.text.formats.rules import RuleWriter, json_object_rules, named_rules, write_calls
from neuron_lib.text.formats.tool_format import ParsedCall, Tools, Trigger

__all__ = ("MISTRAL", "MISTRAL_ARGS", "MISTRAL_IDS")

_MOST_HEAD: Final = 512
"""Characters of a function's name with its id."""
_NAME: Final = re.compile(r"\s*([\w.\-/:]*)\s*")
_CALL_ID: Final = re.compile(r"\[CALL_ID\]\s*[\w\-]*\s*")
_ARGS: Final = re.compile(r"\[ARGS\]\s*")
_HEAD: Final = re.compile(r"\s*([\w.\-/:]+)\s*(?:\[CALL_ID\]\s*[\w\-]*\s*)?(?:\[ARGS\]\s*)?")
_ID_CHARS: Final = 9
"""The templates refuse ids of another length."""


def _begins(text: str) -> int | None:
    """The place of the list, or of the arguments behind a name."""
    name = _NAME.match(text)
    place = 0 if name is None else name.end()
    if name is None or not name[1]:
        rest = text[place:]
        return None if not rest else place if rest[0] in "[{" else -1
    for mark in (_CALL_ID, _ARGS):
        if match := mark.match(text, place):
            place = match.end()
    rest = text[place:]
    if len(text) < _MOST_HEAD and any(mark.startswith(rest) for mark in ("[CALL_ID]", "[ARGS]")):
        return None
    return place if rest.startswith("{") else -1


def _parse(body: str, tools: Tools) -> tuple[ParsedCall, ...]:
    head = _HEAD.match(body)
    if head is None:
        return parse_tool_calls(body, tools)
    call = parse_arguments(head[1], body[head.end() :])
    return () if call is None else (call,)


def _short_ids(_index: int, _name: str, token_hex: Callable[[int], str]) -> str:
    return token_hex(_ID_CHARS // 2 + 1)[:_ID_CHARS]


def _id_rules(writer: RuleWriter, tools: Tools, is_parallel: bool) -> None:  # noqa: FBT001 - see `RuleMaker`
    def call(name: str, parameters: Mapping[str, Any]) -> str:
        head = writer.text(f"[TOOL_CALLS]{name}[CALL_ID]")
        return f"{head} /[a-zA-Z0-9]{{{_ID_CHARS}}}/ {writer.text('[ARGS]')} {writer.json(parameters)}"

    write_calls(writer, tools, call=call, is_parallel=is_parallel)


MISTRAL_IDS: Final = MarkedFormat(
    name="mistral_ids",
    blocks=(ValueBlock(opens=("[TOOL_CALLS]",), begins=_begins, parse=_parse), BARE),
    more_shown=("[ARGS]", "[CALL_ID]"),
    own_triggers=(Trigger("[TOOL_CALLS]"),),
    ids=_short_ids,
    recognises=spells("[TOOL_CALLS]", "[CALL_ID]"),
    write_rules=_id_rules,
)
"""`[TOOL_CALLS]name[CALL_ID]id[ARGS]{…}`: Mistral Small 3.2."""

MISTRAL_ARGS: Final = replace(
    MISTRAL_IDS,
    name="mistral_args",
    recognises=spells("[TOOL_CALLS]", "[ARGS]"),
    write_rules=named_rules(before="[TOOL_CALLS]", behind_name="[ARGS]"),
)
"""`[TOOL_CALLS]name[ARGS]{…}`: Devstral, Magistral, Ministral 3."""

MISTRAL: Final = replace(
    MISTRAL_IDS,
    name="mistral",
    recognises=spells("[TOOL_CALLS]"),
    write_rules=json_object_rules(begin="[TOOL_CALLS][", between=", ", end="]"),
)
"""`[TOOL_CALLS]` and a list of objects with `name`, `arguments` and perhaps `id`: Mistral Nemo and older ones."""
