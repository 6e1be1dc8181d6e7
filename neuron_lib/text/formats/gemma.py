"""A notation of their own: `call:name{key:value}`, with a token as the quotation mark. Gemma 4 and FunctionGemma."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from neuron_lib.text.formats.marked import MarkedFormat, spells
from neuron_lib.text.formats.rules import RuleWriter, write_calls
from neuron_lib.text.formats.scanning import Cursor, NoCall, ScanBlock, called
from neuron_lib.text.formats.tool_format import ParsedCall, Tools, Trigger
from neuron_lib.text.formats.value_rules import write_notation
from neuron_lib.text.formats.values import Schema, json_value, parameters_of, typed_value
from neuron_lib.text.tag_splitter import Markers

__all__ = ("FUNCTION_GEMMA", "GEMMA4")

_CALL: Final = "call:"
_DEEPEST: Final = 64
_NAME: Final = re.compile(r"""[^\s(){}\[\]<>"',:=]{1,256}""")
_BARE: Final = re.compile(r"[^,{}\[\]()<>\"]{0,1000}")
_BRACKETS: Final[Mapping[str, str]] = {"{": "}", "(": ")"}


@dataclass(slots=True, frozen=True, kw_only=True)
class _Syntax:
    """The tokens of one model: around a call, around a text, and before a result, which ends the turn."""

    open: str
    close: str
    quote: str
    result: str

    def scan(self, cursor: Cursor, opening: str, tools: Tools) -> Sequence[ParsedCall]:
        """See `Scan`. A call without the token before it must be of a function of the request."""
        if opening != _CALL:
            cursor.skip_space()
            if not cursor.takes(_CALL):
                cursor.takes(":")
        name = cursor.run(_NAME)
        parameters = parameters_of(name, tools)
        if not name or (opening == _CALL and not parameters.is_declared):
            raise NoCall
        cursor.skip_space()
        bracket = cursor.sees(*_BRACKETS)
        cursor.needs(*_BRACKETS)
        arguments = self._members(cursor, parameters.schema, _BRACKETS[bracket], depth=0)
        behind = cursor.at
        cursor.skip_space()
        if not cursor.takes(self.close):
            cursor.at = behind
        return called(name, arguments)

    def _members(self, cursor: Cursor, schema: Schema, end: str, *, depth: int) -> dict[str, Any]:
        members: dict[str, Any] = {}
        cursor.skip_space()
        while not cursor.takes(end):
            key = self._quoted(cursor)
            if key is None:
                key = cursor.run(_NAME)
            cursor.skip_space()
            cursor.needs(":", "=")
            if not key:
                raise NoCall
            members[key] = self._value(cursor, schema.property(key), depth=depth + 1)
            self._comma(cursor, end)
        return members

    def _value(self, cursor: Cursor, schema: Schema, *, depth: int) -> Any:
        if depth > _DEEPEST:
            raise NoCall
        cursor.skip_space()
        text = self._quoted(cursor)
        if text is not None:
            return text
        if cursor.takes("{"):
            return self._members(cursor, schema, "}", depth=depth)
        if cursor.takes("["):
            return self._items(cursor, schema.item(), depth=depth)
        bare = cursor.run(_BARE).strip()
        if not bare:
            raise NoCall
        return typed_value(bare, schema)

    def _items(self, cursor: Cursor, schema: Schema, *, depth: int) -> list[Any]:
        items: list[Any] = []
        cursor.skip_space()
        while not cursor.takes("]"):
            items.append(self._value(cursor, schema, depth=depth + 1))
            self._comma(cursor, "]")
        return items

    def _comma(self, cursor: Cursor, end: str) -> None:
        """Go behind a comma, which may be missing only before `end`."""
        cursor.skip_space()
        if cursor.takes(","):
            cursor.skip_space()
        elif not cursor.sees(end):
            raise NoCall

    def _quoted(self, cursor: Cursor) -> str | None:
        """The text in quotation marks that begins here. None if none does."""
        if cursor.takes(self.quote):
            return cursor.until(self.quote)
        if not cursor.takes('"'):
            return None
        text = cursor.until('"')
        while (len(text) - len(text.rstrip("\\"))) % 2:
            text += '"' + cursor.until('"')
        value = json_value(f'"{text}"')
        return value if isinstance(value, str) else text

    def write_rules(self, writer: RuleWriter, tools: Tools, is_parallel: bool) -> None:  # noqa: FBT001 - see `RuleMaker`
        """Adds the rules for calls in this notation, one after the other."""

        def call(name: str, schema: Mapping[str, Any]) -> str:
            members = write_notation(writer, schema, quote=self.quote)
            return f"{writer.text(f'{self.open}{_CALL}{name}')} {members} {writer.text(self.close)}"

        write_calls(writer, tools, call=call, is_parallel=is_parallel)


def _format(
    name: str, syntax: _Syntax, *, reasoning: Markers | None = None, more_shown: tuple[str, ...] = ()
) -> MarkedFormat:
    return MarkedFormat(
        name=name,
        blocks=(
            ScanBlock(opens=(syntax.open,), closes=(syntax.close,), scan=syntax.scan),
            ScanBlock(opens=(_CALL,), closes=(syntax.close,), scan=syntax.scan, is_first=True),
        ),
        trails=(syntax.close,),
        dropped=(syntax.result,),
        more_shown=(syntax.quote, *more_shown),
        reasoning=reasoning,
        recognises=spells(syntax.open, syntax.quote),
        own_triggers=(Trigger(syntax.open),),
        write_rules=syntax.write_rules,
    )


GEMMA4: Final = _format(
    "gemma4",
    _Syntax(open="<|tool_call>", close="<tool_call|>", quote='<|"|>', result="<|tool_response>"),
    reasoning=Markers("<|channel>thought\n", "<channel|>"),
    more_shown=("<|channel>",),
)
FUNCTION_GEMMA: Final = _format(
    "function_gemma",
    _Syntax(
        open="<start_function_call>",
        close="<end_function_call>",
        quote="<escape>",
        result="<start_function_response>",
    ),
)
