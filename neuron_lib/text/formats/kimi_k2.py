"""JSON arguments behind the id of a call, between tokens of their own: Kimi K2."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from neuron_lib.text.formats.marked import MarkedFormat, spells
from neuron_lib.text.formats.rules import RuleWriter, write_calls
from neuron_lib.text.formats.scanning import Cursor, NoCall, ScanBlock, called
from neuron_lib.text.formats.tool_format import ParsedCall, Tools
from neuron_lib.text.formats.values import json_value, parameters_of

__all__ = ("KIMI_K2",)

_SECTION: Final = "<|tool_calls_section_begin|>"
_SECTION_END: Final = "<|tool_calls_section_end|>"
_CALL: Final = "<|tool_call_begin|>"
_ARGUMENTS: Final = "<|tool_call_argument_begin|>"
_CALL_END: Final = "<|tool_call_end|>"
_ID: Final = re.compile(r"(?:functions\.)?([^\s:<>]+)(:\d*)?")


def _scan(cursor: Cursor, _opening: str, tools: Tools) -> Sequence[ParsedCall]:
    """See `Scan`. Reads one call."""
    match = _ID.fullmatch(cursor.near_until(_ARGUMENTS).strip())
    if match is None:
        raise NoCall
    text, _ = cursor.until_any(_CALL_END, _SECTION_END, _CALL)
    cursor.takes(_CALL_END)
    value = json_value(text) if text.strip() else {}
    if isinstance(value, str):  # templates that write text arguments as JSON teach the model to quote them twice
        value = json_value(value)
    if not isinstance(value, dict):
        raise NoCall
    name, number = match.groups()
    names = (each for each in (name, name.rpartition(".")[2]) if parameters_of(each, tools).is_declared)
    known = next(names, name if number else None)  # without a number it is no id
    if known is None:
        raise NoCall
    return called(known, value)


def _ids(index: int, name: str, _token_hex: Callable[[int], str]) -> str:
    """The id that the model has written. Its template shows the id again beside the result."""
    return f"functions.{name}:{index}"


def _write_rules(writer: RuleWriter, tools: Tools, is_parallel: bool) -> None:  # noqa: FBT001 - see `RuleMaker`
    def call(name: str, schema: Mapping[str, Any]) -> str:
        head = f"{writer.text(f'{_CALL}functions.{name}:')} /[0-9]{{1,3}}/ {writer.text(_ARGUMENTS)}"
        return f"{head} {writer.json(schema)} {writer.text(_CALL_END)}"

    write_calls(writer, tools, call=call, is_parallel=is_parallel, begin=_SECTION, end=_SECTION_END)


KIMI_K2: Final = MarkedFormat(
    name="kimi_k2",
    blocks=(ScanBlock(opens=(_CALL,), closes=(_CALL_END,), scan=_scan),),
    leads=(_SECTION,),
    trails=(_SECTION_END,),
    more_shown=(_ARGUMENTS,),
    recognises=spells(_CALL, _ARGUMENTS),
    write_rules=_write_rules,
    ids=_ids,
)
