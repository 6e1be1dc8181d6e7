"""`<function name="f">` around `<param name="key">`, as in XML: MiniCPM5."""

from html import unescape
from typing import Final

from neuron_lib.text.formats.marked import MarkedFormat, spells
from neuron_lib.text.formats.tagged import TagSyntax, tag_rules
from neuron_lib.text.formats.tool_format import Trigger

__all__ = ("MINICPM",)

_CDATA: Final = "<![CDATA["
_CDATA_END: Final = "]]>"


def _text(text: str) -> str:
    inner = text.strip()
    if inner.startswith(_CDATA) and inner.endswith(_CDATA_END):
        return inner[len(_CDATA) : -len(_CDATA_END)]
    return unescape(inner)


_SYNTAX: Final = TagSyntax(
    sections=(("<tool_call>", "</tool_call>"),),
    function=("<function", "</function>"),
    parameter=("<param", "</param>"),
    decode=_text,
)

MINICPM: Final = MarkedFormat(
    name="minicpm",
    blocks=(_SYNTAX.block,),
    trails=_SYNTAX.trails,
    more_shown=_SYNTAX.inner,
    recognises=spells("<function name=", "<param name="),
    own_triggers=(Trigger("<function name="),),
    write_rules=tag_rules(_SYNTAX, _SYNTAX.tags(), begin="", between="\n", end=""),
)
