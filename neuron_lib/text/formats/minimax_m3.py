"""Calls in tags that may contain each other, each behind the mark of a namespace: MiniMax M3."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from neuron_lib.text.formats.marked import MarkedFormat, spells
from neuron_lib.text.formats.rules import RuleWriter, write_calls
from neuron_lib.text.formats.scanning import Cursor, NoCall, ScanBlock, called
from neuron_lib.text.formats.tool_format import ParsedCall, Tools
from neuron_lib.text.formats.value_rules import Tags, write_nested
from neuron_lib.text.formats.values import Schema, parameters_of, typed_value
from neuron_lib.text.tag_splitter import Markers

__all__ = ("MINIMAX_M3",)

_MARK: Final = "]<]minimax[>["
_OPEN: Final = f"{_MARK}<tool_call>"
_CLOSE: Final = f"{_MARK}</tool_call>"
_INVOKE: Final = f"{_MARK}<invoke"
_INVOKE_END: Final = f"{_MARK}</invoke>"
_ITEM: Final = "item"
_DEEPEST: Final = 64
_NAME: Final = re.compile(r"""\s*name\s*=\s*(?:"([^"<>]+)"|'([^'<>]+)'|([^\s"'<>]+))\s*/?""")

_TAGS: Final = Tags(lambda name, _is_text: f"{_MARK}<{name}>", lambda name: f"{_MARK}</{name}>")

_Content: TypeAlias = "str | list[_Element]"


class _Element(NamedTuple):
    """A tag with what it contains: a text, or other elements."""

    name: str
    content: _Content


def _scan(cursor: Cursor, _opening: str, tools: Tools) -> Sequence[ParsedCall]:
    """See `Scan`. Reads one function, from behind the beginning of its opening tag."""
    tag = cursor.line_until(">")
    match = _NAME.fullmatch(tag)
    if match is None:
        raise NoCall
    name = next(filter(None, match.groups()))
    elements: list[_Element] = []
    cursor.skip_space()
    while not tag.endswith("/") and not cursor.takes(_INVOKE_END):
        if elements and (cursor.is_over or cursor.sees(_CLOSE)):
            break  # the closing tag is missing
        cursor.needs(f"{_MARK}<")
        elements.append(_element(cursor, depth=0))
        cursor.skip_space()
    parameters = parameters_of(name, tools)
    return called(name, _members(elements, parameters.schema))


def _element(cursor: Cursor, *, depth: int) -> _Element:
    """The element from behind the beginning of its opening tag, up to the end of its closing tag."""
    name = cursor.line_until(">").strip()
    if not name or name.startswith("/") or depth > _DEEPEST:
        raise NoCall
    text, elements = "", []
    while True:
        text += cursor.until(_MARK)
        if cursor.takes(f"</{name}>"):
            break
        cursor.needs("<")
        elements.append(_element(cursor, depth=depth + 1))
    if elements and text.strip():
        raise NoCall
    return _Element(name, elements or text)


def _members(elements: Sequence[_Element], schema: Schema) -> dict[str, Any]:
    """The elements as members of an object. Members of the same name become a list."""
    members: dict[str, list[Any]] = {}
    for name, content in elements:
        members.setdefault(name, []).append(_value(content, schema.property(name)))
    return {name: values[0] if len(values) == 1 else values for name, values in members.items()}


def _value(content: _Content, schema: Schema) -> Any:
    types = schema.types()
    if isinstance(content, str):
        if not content.strip() and "string" not in types:
            if "array" in types:
                return []
            if "object" in types:
                return {}
        return typed_value(content, schema)
    if "array" in types or (not types and all(element.name == _ITEM for element in content)):
        return [_value(element.content, schema.item()) for element in content]
    return _members(content, schema)


def _write_rules(writer: RuleWriter, tools: Tools, is_parallel: bool) -> None:  # noqa: FBT001 - see `RuleMaker`
    def call(name: str, schema: Mapping[str, Any]) -> str:
        members = write_nested(writer, schema, _TAGS, item=_ITEM)
        return f"{writer.text(f'{_INVOKE} name={chr(34)}{name}{chr(34)}>')} {members} {writer.text(_INVOKE_END)}"

    write_calls(writer, tools, call=call, is_parallel=is_parallel, begin=f"{_OPEN}\n", between="\n", end=f"\n{_CLOSE}")


MINIMAX_M3: Final = MarkedFormat(
    name="minimax_m3",
    blocks=(ScanBlock(opens=(_INVOKE,), closes=(_INVOKE_END,), scan=_scan),),
    leads=(_OPEN,),
    trails=(_CLOSE,),
    more_shown=(_MARK,),
    reasoning=Markers("<mm:think>", "</mm:think>"),
    recognises=spells(_MARK, "<tool_call>", "<mm:think>"),
    write_rules=_write_rules,
)
