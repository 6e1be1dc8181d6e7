"""Step 3: tags of its own around each argument, between tokens around each call."""

from typing import Final

from neuron_lib.text.formats.marked import MarkedFormat, spells
from neuron_lib.text.formats.tagged import TagSyntax, tag_rules
from neuron_lib.text.formats.tool_format import Trigger

__all__ = ("STEP_3",)

_BEGIN: Final = "<｜tool_calls_begin｜>"
_END: Final = "<｜tool_calls_end｜>"
_CALL: Final = "<｜tool_call_begin｜>function<｜tool_sep｜>"
_CALL_END: Final = "<｜tool_call_end｜>"
_SYNTAX: Final = TagSyntax(
    sections=((_CALL, _CALL_END),),
    function=("<steptml:invoke", "</steptml:invoke>"),
    parameter=("<steptml:parameter", "</steptml:parameter>"),
    bare_is_certain=True,
)

STEP_3: Final = MarkedFormat(
    name="step3",
    blocks=(_SYNTAX.block,),
    leads=(_BEGIN,),
    trails=(*_SYNTAX.trails, _END),
    more_shown=("<｜tool_call_begin｜>", "<｜tool_sep｜>"),
    recognises=spells("<steptml:invoke"),
    own_triggers=(Trigger(_BEGIN),),
    write_rules=tag_rules(_SYNTAX, _SYNTAX.tags(), begin=_BEGIN, before=_CALL, after=_CALL_END, between="", end=_END),
)
