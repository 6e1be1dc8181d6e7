"""Nested elements between three tokens: `<|open|>call tool="f"<|sep|>` to `<|close|>call<|sep|>`. Kimi K3."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from neuron_lib.text.formats.marked import MarkedFormat, spells
from neuron_lib.text.formats.rules import RuleWriter, write_calls
from neuron_lib.text.formats.scanning import Cursor, NoCall, ScanBlock, called
from neuron_lib.text.formats.tool_format import ParsedCall, Tools, Trigger
from neuron_lib.text.formats.value_rules import Tags, write_members
from neuron_lib.text.formats.values import Schema, json_value, parameters_of, typed_value
from neuron_lib.text.tag_splitter import Markers

__all__ = ("KIMI_K3",)

_OPEN: Final = "<|open|>"
_CLOSE: Final = "<|close|>"
_SEP: Final = "<|sep|>"
_CALL: Final = f"{_OPEN}call"
_CALL_END: Final = f"{_CLOSE}call{_SEP}"
_TOOLS: Final = f"{_OPEN}tools{_SEP}"
_TOOLS_END: Final = f"{_CLOSE}tools{_SEP}"
_RESPONSE: Final = f"{_OPEN}response{_SEP}"
_RESPONSE_END: Final = f"{_CLOSE}response{_SEP}"
_ARGUMENT: Final = f"{_OPEN}argument"
_ARGUMENT_END: Final = f"{_CLOSE}argument{_SEP}"
_JSON: Final = f"{_OPEN}json"
_JSON_END: Final = f"{_CLOSE}json{_SEP}"
_ATTRIBUTE: Final = re.compile(r'([\w-]+)="([^"]*)"')
_TAGS: Final = Tags(
    lambda name, is_text: f'{_ARGUMENT} key="{name}" type="{"string" if is_text else "object"}"{_SEP}',
    lambda _name: _ARGUMENT_END,
)


def _scan(cursor: Cursor, _opening: str, tools: Tools) -> Sequence[ParsedCall]:
    """See `Scan`. Reads one call from behind the beginning of its opening tag."""
    name = _attributes(cursor).get("tool", "")
    if not name:
        raise NoCall
    parameters = parameters_of(name, tools)
    arguments: dict[str, Any] = {}
    cursor.skip_space()
    while not cursor.takes(_CALL_END):
        if cursor.takes(_ARGUMENT):
            attributes = _attributes(cursor)
            text = cursor.until(_ARGUMENT_END)
            key = attributes.get("key", "")
            arguments[key] = _value(text, attributes.get("type"), parameters.schema.property(key))
        elif cursor.takes(_JSON):
            _attributes(cursor)
            arguments |= _object(cursor.until(_JSON_END))
        elif arguments and (cursor.is_over or cursor.sees(_TOOLS_END, _CALL)):
            break  # the closing tag is missing
        else:
            raise NoCall
        cursor.skip_space()
    return called(name, arguments)


def _attributes(cursor: Cursor) -> dict[str, str]:
    """The attributes up to the end of an opening tag."""
    found = _ATTRIBUTE.findall(cursor.near_until(_SEP))
    return {key: value.replace("&quot;", '"').replace("&amp;", "&") for key, value in found}


def _value(text: str, kind: str | None, schema: Schema) -> Any:
    """The value that `text` stands for. Its tag says of which type it is."""
    types = schema.types()
    if kind is None or (kind == "string" and types and "string" not in types):
        return typed_value(text, schema)
    return text if kind == "string" or types == ["string"] else json_value(text)


def _object(text: str) -> dict[str, Any]:
    value = json_value(text)
    if not isinstance(value, dict):
        raise NoCall
    return value


def _write_rules(writer: RuleWriter, tools: Tools, is_parallel: bool) -> None:  # noqa: FBT001 - see `RuleMaker`
    def call(name: str, schema: Mapping[str, Any]) -> str:
        head = f"{writer.text(f'{_CALL} tool={chr(34)}{name}{chr(34)} index={chr(34)}')} /[1-9][0-9]?/"
        return f"{head} {writer.text(chr(34) + _SEP)} {write_members(writer, schema, _TAGS)} {writer.text(_CALL_END)}"

    # The answer comes before the calls, also if it is empty.
    before = f"({writer.text(_RESPONSE)})? ({writer.text(_RESPONSE_END)})?"
    write_calls(writer, tools, call=call, is_parallel=is_parallel, before=before, begin=_TOOLS, end=_TOOLS_END)


KIMI_K3: Final = MarkedFormat(
    name="kimi_k3",
    blocks=(ScanBlock(opens=(_CALL,), closes=(_CALL_END,), scan=_scan),),
    leads=(_TOOLS,),
    trails=(_TOOLS_END,),
    dropped=(_RESPONSE, _RESPONSE_END, f"{_CLOSE}message{_SEP}", "<|end_of_msg|>"),
    more_shown=(_OPEN, _CLOSE, _SEP),
    reasoning=Markers(f"{_OPEN}think{_SEP}", f"{_CLOSE}think{_SEP}"),
    recognises=spells(_OPEN, _CLOSE, _SEP, "'call'", "'think'"),
    own_triggers=(Trigger(_TOOLS),),
    write_rules=_write_rules,
)
