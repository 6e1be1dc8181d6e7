"""The name of a function, then `<arg_key>` and `<arg_value>`: GLM 4.5 to 4.7, Ling 3, Spark 2.5, Laguna, Hunyuan 3."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from neuron_lib.text.formats.marked import MarkedFormat, spells
from neuron_lib.text.formats.rules import RuleWriter, json_object_rules, write_calls
from neuron_lib.text.formats.scanning import Cursor, NoCall, ScanBlock, called, scan_json
from neuron_lib.text.formats.tool_format import ParsedCall, Tools, Trigger
from neuron_lib.text.formats.value_rules import Tags, write_members
from neuron_lib.text.formats.values import Parameters, json_value, parameters_of
from neuron_lib.text.tag_splitter import Markers

__all__ = ("GLM45", "GLM47", "HY3", "LONGCAT", "LONGCAT_JSON")

_NAME: Final = re.compile(r"""[^\s<>{}\[\]()"'`,;]{1,256}""")


class _Syntax:
    """The tags of one family: those of GLM, with `prefix` and `suffix` in each name. Immutable.

    `is_on_lines` says whether the model writes each key and each value on a line of its own. With `is_in_section` there
    are tags around all calls, and one behind the name of the function.
    """

    def __init__(
        self, *, prefix: str = "", suffix: str = "", is_in_section: bool = False, is_on_lines: bool = True
    ) -> None:
        self.line_break: Final = "\n" if is_on_lines else ""
        self.open: Final = f"<{prefix}tool_call{suffix}>"
        self.close: Final = f"</{prefix}tool_call{suffix}>"
        self.separator: Final = f"<tool_sep{suffix}>" if is_in_section else ""
        self.section: Final[tuple[str, ...]] = (
            (f"<tool_calls{suffix}>", f"</tool_calls{suffix}>") if is_in_section else ()
        )
        self.key: Final = f"<{prefix}arg_key{suffix}>", f"</{prefix}arg_key{suffix}>"
        self.value: Final = f"<{prefix}arg_value{suffix}>", f"</{prefix}arg_value{suffix}>"

    @property
    def inner(self) -> tuple[str, ...]:
        """The tags inside a call."""
        return tuple(filter(None, (*self.key, *self.value, self.separator)))

    def scan(self, cursor: Cursor, _opening: str, tools: Tools) -> Sequence[ParsedCall]:
        """See `Scan`. A call without arguments must be of a function of the request: any word may look like one."""
        cursor.skip_space()
        if cursor.sees("{", "["):
            return scan_json(cursor, self.close, tools)
        name = cursor.run(_NAME)
        parameters = parameters_of(name, tools)
        cursor.skip_space()
        if self.separator and cursor.takes(self.separator):
            cursor.skip_space()
        if not name:
            raise NoCall
        if cursor.sees("{"):
            return self._json(cursor, name)
        arguments: dict[str, Any] = {}
        while not cursor.takes(self.close):
            if cursor.takes(self.key[0]):
                self._argument(cursor, parameters, arguments)
            elif arguments and (cursor.is_over or cursor.sees(self.open)):
                break  # the closing tag is missing
            else:
                raise NoCall
        if not arguments and not parameters.is_declared:
            raise NoCall
        return called(name, arguments)

    def _json(self, cursor: Cursor, name: str) -> Sequence[ParsedCall]:
        value = json_value(cursor.until(self.close))
        if not isinstance(value, dict):
            raise NoCall
        return called(name, value)

    def _argument(self, cursor: Cursor, parameters: Parameters, arguments: dict[str, Any]) -> None:
        key = cursor.line_until(self.key[1]).strip()
        cursor.skip_space()
        cursor.takes(self.value[0])
        arguments[key] = parameters.value(key, self._text(cursor))
        cursor.skip_space()

    def _text(self, cursor: Cursor) -> str:
        """The text of an argument. A closing tag that no tag of the call follows is part of the text."""
        begin = cursor.at
        cursor.at = cursor.passed.get(begin, begin)
        while True:
            cursor.until(self.value[1])
            text = cursor.text[begin : cursor.at - len(self.value[1])]
            behind = cursor.at
            cursor.skip_space()
            if cursor.sees(self.key[0], self.close, self.open) or cursor.at == len(cursor.text):
                return text
            cursor.at = cursor.passed[begin] = behind

    def write_rules(self, writer: RuleWriter, tools: Tools, is_parallel: bool) -> None:  # noqa: FBT001 - see `RuleMaker`
        """Adds the rules for calls in these tags, one after the other."""
        tags = Tags(
            lambda key, _is_text: f"{self.key[0]}{key}{self.key[1]}{self.line_break}{self.value[0]}",
            lambda _key: f"{self.value[1]}{self.line_break}",
        )

        def call(name: str, schema: Mapping[str, Any]) -> str:
            members = write_members(writer, schema, tags)
            head = writer.text(f"{self.open}{name}{self.separator}{self.line_break}")
            return f"{head} {members} {writer.text(self.close)}"

        begin, end = (f"{self.section[0]}\n", f"\n{self.section[1]}") if self.section else ("", "")
        write_calls(writer, tools, call=call, is_parallel=is_parallel, begin=begin, between=self.line_break, end=end)


_ON_LINES: Final = re.compile(r"</arg_key>(?:\\n|\s*\n)")
_GLM45: Final = _Syntax()
_GLM47: Final = _Syntax(is_on_lines=False)
_LONGCAT: Final = _Syntax(prefix="longcat_")
_HY3: Final = _Syntax(suffix=":opensource", is_in_section=True)
_HY3_PLAIN: Final = _Syntax(is_in_section=True)


def _is_glm(template: str) -> bool:
    return all(text in template for text in ("<tool_call>", *_GLM47.inner))


def _is_on_lines(template: str) -> bool:
    return _is_glm(template) and _ON_LINES.search(template) is not None


def _glm(name: str, syntax: _Syntax, recognises: Callable[[str], bool]) -> MarkedFormat:
    return MarkedFormat(
        name=name,
        blocks=(ScanBlock(opens=(syntax.open,), closes=(syntax.close,), scan=syntax.scan),),
        more_shown=syntax.inner,
        recognises=recognises,
        write_rules=syntax.write_rules,
    )


GLM45: Final = _glm("glm45", _GLM45, _is_on_lines)
GLM47: Final = _glm("glm47", _GLM47, _is_glm)
HY3: Final = MarkedFormat(
    name="hunyuan3",
    blocks=tuple(ScanBlock(opens=(each.open,), closes=(each.close,), scan=each.scan) for each in (_HY3, _HY3_PLAIN)),
    leads=(_HY3.section[0], _HY3_PLAIN.section[0]),
    trails=(_HY3.section[1], _HY3_PLAIN.section[1]),
    own_triggers=(Trigger(_HY3.section[0]),),
    more_shown=_HY3.inner,
    reasoning=Markers("<think:opensource>", "</think:opensource>"),
    recognises=spells(":opensource", "<tool_sep", "<arg_key", "<arg_value"),
    write_rules=_HY3.write_rules,
)
LONGCAT: Final = MarkedFormat(
    name="longcat",
    blocks=(ScanBlock(opens=(_LONGCAT.open,), closes=(_LONGCAT.close,), scan=_LONGCAT.scan),),
    more_shown=_LONGCAT.inner,
    reasoning=Markers("<longcat_think>", "</longcat_think>"),
    recognises=spells(_LONGCAT.open, *_LONGCAT.key),
    write_rules=_LONGCAT.write_rules,
)
LONGCAT_JSON: Final = replace(
    LONGCAT,
    name="longcat_json",
    recognises=spells(_LONGCAT.open),
    write_rules=json_object_rules(before=f"{_LONGCAT.open}\n", after=f"\n{_LONGCAT.close}", between="\n"),
)
"""The first LongCat models write JSON between the same tags."""
