"""Calls in tags, with a tag for each argument, in the spellings of several families. Knows no family."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from neuron_lib.text.formats.rules import RuleMaker, RuleWriter, write_calls
from neuron_lib.text.formats.scanning import Cursor, NoCall, ScanBlock, called, scan_json
from neuron_lib.text.formats.tool_format import ParsedCall, Tools
from neuron_lib.text.formats.value_rules import Tags, write_members
from neuron_lib.text.formats.values import (
    Parameters,
    Schema,
    json_value,
    parameters_of,
    typed_value,
)

__all__ = ("TagSyntax", "tag_rules")

_ATTRIBUTE: Final = re.compile(r"""\s*([\w-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")
_NAME: Final = re.compile(r"""[^\s<>"'{}]+""")
_QUOTES: Final = "\"' \t"
_WRAPPERS: Final = ("arguments", "input", "properties")
"""Names of a single parameter in which models wrap all the others."""


@dataclass(slots=True, frozen=True, kw_only=True)
class TagSyntax:
    """The tags of a family. All tags are literal texts.

    - `sections`: the pairs of tags around all calls of a turn, or around one call. Models leave them out at times.
    - `function`, `parameter`: the beginning of the opening tag, and the closing tag.
    - `has_attributes`: whether the name is an attribute, `<invoke name="f">`. Otherwise it stands in the tag,
      `<function=f>`.
    - `bare_is_certain`: whether a call without a tag around it may also be of a function that the request does not
      declare, because nothing else looks like it.
    - `decode`: what the text between the tags of a parameter is, before it gets its type.
    """

    sections: tuple[tuple[str, str], ...]
    function: tuple[str, str]
    parameter: tuple[str, str]
    has_attributes: bool = True
    bare_is_certain: bool = False
    decode: Callable[[str], str] = field(default=str)

    def tags(self, *, frame: str = "", says_type: bool = False) -> Tags:
        """The tags around an argument, for a grammar. `frame` is what the model writes around each value. With
        `says_type` the opening tag says whether the value is a text.
        """
        begin, end = self.parameter

        def opening(name: str, is_text: bool) -> str:  # noqa: FBT001 - as declared in `Tags`
            more = f' string="{str(is_text).lower()}"' if says_type else ""
            return f'{begin} name="{name}"{more}>{frame}' if self.has_attributes else f"{begin}{name}>{frame}"

        return Tags(opening, lambda _name: f"{frame}{end}\n")

    @property
    def block(self) -> ScanBlock:
        """One call, which begins with a tag around calls or with the opening tag of a function."""
        opens = (*(opening for opening, _ in self.sections), self.function[0])
        return ScanBlock(opens=opens, closes=(self.function[1],), scan=_Reader(self).call)

    @property
    def trails(self) -> tuple[str, ...]:
        """The closing tags around calls."""
        return tuple(closing for _, closing in self.sections)

    @property
    def inner(self) -> tuple[str, ...]:
        """The beginnings and the ends of the tags inside a call."""
        return (*self.function, *self.parameter)


def tag_rules(
    syntax: TagSyntax, tags: Tags, *, begin: str, between: str, end: str, before: str = "", after: str = ""
) -> RuleMaker:
    """Rules for calls in tags.

    `begin` and `end` are around all calls and `between` between two of them, `before` and `after` are around each call.
    """
    opening, closing = syntax.function

    def write(writer: RuleWriter, tools: Tools, is_parallel: bool) -> None:  # noqa: FBT001 - see `RuleMaker`
        def call(name: str, parameters: Mapping[str, Any]) -> str:
            head = f'{opening} name="{name}">' if syntax.has_attributes else f"{opening}{name}>"
            members = write_members(writer, parameters, tags)
            return f"{writer.text(before + head + chr(10))} {members} {writer.text(closing + after)}"

        write_calls(writer, tools, call=call, is_parallel=is_parallel, begin=begin, between=between, end=end)

    return write


class _Reader:
    """Reads calls of one syntax. Immutable."""

    def __init__(self, syntax: TagSyntax) -> None:
        self._syntax: Final = syntax
        self._function, self._function_end = syntax.function
        self._parameter, self._parameter_end = syntax.parameter
        self._section_tags: Final = tuple(tag for pair in syntax.sections for tag in pair)
        closing = re.escape(self._parameter_end), re.escape(self._function_end)
        next_opening = rf"\n[ \t]*{re.escape(self._parameter)}([^>\n]*)>"
        self._stop: Final = re.compile("|".join((*closing, next_opening)))

    def call(self, cursor: Cursor, opening: str, tools: Tools) -> Sequence[ParsedCall]:
        """See `Scan`."""
        is_bare = opening == self._function
        if not is_bare:
            cursor.skip_space()
            if cursor.sees("{", "["):
                return scan_json(cursor, dict(self._syntax.sections)[opening], tools)
            cursor.needs(self._function)
        name, attributes = self._tag(cursor)
        parameters = parameters_of(name, tools)
        if is_bare and not (parameters.is_declared or self._syntax.bare_is_certain):
            raise NoCall
        is_closed = attributes.endswith("/") and self._syntax.has_attributes
        arguments = {} if is_closed else self._arguments(cursor, parameters)
        return called(name, _unwrapped(arguments, parameters))

    def _tag(self, cursor: Cursor) -> tuple[str, str]:
        """The name in an opening tag, and the text of the tag behind its beginning."""
        text = cursor.line_until(">")
        name = self._name_in(text)
        if _NAME.fullmatch(name) is None:
            raise NoCall
        return name, text

    def _arguments(self, cursor: Cursor, parameters: Parameters) -> dict[str, Any]:
        """The arguments up to the end of the function, which is read too. A missing end is forgiven where it is certain
        that the function ends.
        """
        arguments: dict[str, Any] = {}
        cursor.skip_space()
        if cursor.sees("{"):
            return self._json(cursor)
        while not cursor.takes(self._function_end):
            if cursor.takes(self._parameter):
                key, tag = self._tag(cursor)
                text = self._syntax.decode(self._text(cursor, parameters.names - {key, *arguments}))
                arguments[key] = _value(text, parameters.schema.property(key), _attributes(tag).get("string"))
                cursor.skip_space()
            elif arguments and (cursor.is_over or cursor.sees(*self._section_tags)):
                break
            else:
                raise NoCall
        return arguments

    def _json(self, cursor: Cursor) -> dict[str, Any]:
        value = json_value(cursor.until(self._function_end))
        if not isinstance(value, dict):
            raise NoCall
        return value

    def _text(self, cursor: Cursor, others: frozenset[str]) -> str:
        """The text of a parameter, up to its end, which is read too. `others` are the parameters that may come next.

        A closing tag that no tag of the call follows is part of the text. If the closing tag is missing, the text ends
        at the tag of one of `others` at the beginning of a line, or at the end of the function.
        """
        begin = cursor.at
        cursor.at = cursor.passed.get(begin, begin)
        while True:
            stop = cursor.search(self._stop, wake=">")
            text = cursor.text[begin : stop.start()]
            cursor.at = stop.end()
            if stop[0] == self._parameter_end:
                if self._continues(cursor):
                    return text
            elif stop[0] == self._function_end:
                if self._ends(cursor) and self._parameter_end not in text:
                    cursor.at = stop.start()
                    return text
            elif self._name_in(stop[1]) in others:
                cursor.at = stop.start()
                return text
            else:
                cursor.at = stop.start() + 1
            cursor.passed[begin] = cursor.at

    def _name_in(self, tag: str) -> str:
        return _attributes(tag).get("name", "") if self._syntax.has_attributes else tag.strip(_QUOTES)

    def _continues(self, cursor: Cursor) -> bool:
        """Whether a tag of the call follows, or the end of the reply. The place stays the same."""
        return self._is_followed_by(cursor, self._parameter, self._function_end, *self._section_tags)

    def _ends(self, cursor: Cursor) -> bool:
        """Whether a tag that may stand behind a call follows, or the end of the reply. The place stays the same."""
        return self._is_followed_by(cursor, self._function, *self._section_tags)

    def _is_followed_by(self, cursor: Cursor, *tags: str) -> bool:
        place = cursor.at
        cursor.skip_space()
        is_followed = bool(cursor.sees(*tags)) or cursor.at == len(cursor.text)
        cursor.at = place
        return is_followed


def _attributes(tag: str) -> dict[str, str]:
    """The attributes in the text of a tag."""
    return {key: double or single or plain for key, double, single, plain in _ATTRIBUTE.findall(tag)}


def _value(text: str, schema: Schema, is_string: str | None) -> Any:
    """The value that `text` stands for. `is_string` is what the tag says of the type, if it says something.

    The tag is believed, except where the tool declares another type.
    """
    types = schema.types()
    if is_string is None or (is_string == "true" and types and "string" not in types):
        return typed_value(text, schema)
    return text if is_string == "true" or types == ["string"] else json_value(text)


def _unwrapped(arguments: dict[str, Any], parameters: Parameters) -> dict[str, Any]:
    """The arguments without an object around them that the tool does not declare."""
    if len(arguments) != 1 or not parameters.names:
        return arguments
    key, inner = next(iter(arguments.items()))
    is_wrapper = key in _WRAPPERS and key not in parameters.names
    return inner if is_wrapper and isinstance(inner, dict) and parameters.names.issuperset(inner) else arguments
