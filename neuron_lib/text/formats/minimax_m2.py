"""`<invoke name="f">` around `<parameter name="key">`: MiniMax M2."""

from typing import Final

from neuron_lib.text.formats.marked import MarkedFormat, spells
from neuron_lib.text.formats.tagged import TagSyntax, tag_rules
from neuron_lib.text.formats.tool_format import Trigger
from neuron_lib.text.formats.values import without_frame

__all__ = ("MINIMAX_M2",)

_OPEN: Final = "<minimax:tool_call>"
_CLOSE: Final = "</minimax:tool_call>"
_SYNTAX: Final = TagSyntax(
    sections=((_OPEN, _CLOSE),),
    function=("<invoke", "</invoke>"),
    parameter=("<parameter", "</parameter>"),
    decode=without_frame,
)

MINIMAX_M2: Final = MarkedFormat(
    name="minimax_m2",
    blocks=(_SYNTAX.block,),
    trails=_SYNTAX.trails,
    more_shown=_SYNTAX.inner,
    recognises=spells(_OPEN, "<invoke"),
    own_triggers=(Trigger(_OPEN),),
    write_rules=tag_rules(_SYNTAX, _SYNTAX.tags(), begin=f"{_OPEN}\n", between="\n", end=f"\n{_CLOSE}"),
)
