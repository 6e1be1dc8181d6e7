"""DeepSeek: R1, V3 and V3.1 write JSON behind the name of a function, V3.2 and V4 write a tag for each argument."""

import re
from collections.abc import Sequence
from typing import Final

from neuron_lib.text.formats.marked import MarkedFormat, spells
from neuron_lib.text.formats.rules import named_rules
from neuron_lib.text.formats.scanning import Cursor, NoCall, ScanBlock, called
from neuron_lib.text.formats.spelling import named_speller
from neuron_lib.text.formats.tagged import TagSyntax, tag_rules
from neuron_lib.text.formats.tool_format import ParsedCall, Tools, Trigger
from neuron_lib.text.formats.values import json_value

__all__ = ("DEEPSEEK_R1", "DEEPSEEK_V4", "DEEPSEEK_V31", "DEEPSEEK_V32")

_CALLS: Final = "<｜tool▁calls▁begin｜>"
_CALLS_END: Final = "<｜tool▁calls▁end｜>"
_CALL: Final = "<｜tool▁call▁begin｜>"
_CALL_END: Final = "<｜tool▁call▁end｜>"
_SEP: Final = "<｜tool▁sep｜>"
_WORD: Final = "function"
"""What R1 and V3 write before the name."""
_OTHER_CALLS: Final = ("<｜tool_calls_begin｜>", "<｜tool calls begin｜>", "<｜tool\\_calls\\_begin｜>")
"""How models write the first token if it is no token of their vocabulary."""

_NAME: Final = re.compile(r"""[^\s<>"'`{}]+""")
_FENCED: Final = re.compile(r"\s*```(?:json)?\s*(.*?)\s*(?:```)?\s*", re.DOTALL)


def _scan(cursor: Cursor, _opening: str, _tools: Tools) -> Sequence[ParsedCall]:
    """See `Scan`. Reads one call. `function` and the token before it may be missing, and so may be the fence."""
    cursor.skip_space()
    cursor.takes(_CALL)
    head = cursor.near_until(_SEP).strip()
    if head == _WORD:
        cursor.skip_space()
        head = cursor.run(_NAME)
    if _NAME.fullmatch(head) is None:
        raise NoCall
    text, _ = cursor.until_any(_CALL_END, _CALLS_END, _CALL)
    cursor.takes(_CALL_END)
    fenced = _FENCED.fullmatch(text)
    inner = text if fenced is None else fenced[1]
    value = json_value(inner) if inner.strip() else {}
    if not isinstance(value, dict):
        raise NoCall
    return called(head, value)


_BLOCKS: Final = (ScanBlock(opens=(_CALLS, _CALL, *_OTHER_CALLS), closes=(_CALL_END,), scan=_scan),)

DEEPSEEK_R1: Final = MarkedFormat(
    name="deepseek_r1",
    blocks=_BLOCKS,
    trails=(_CALLS_END,),
    more_shown=(_SEP,),
    recognises=spells(_CALL, _SEP, "```json"),
    spell=named_speller(
        begin=_CALLS,
        before=f"{_CALL}{_WORD}{_SEP}",
        behind_name="\n```json\n",
        after=f"\n```{_CALL_END}",
        between="\n",
        end=_CALLS_END,
    ),
    write_rules=named_rules(
        begin=_CALLS,
        before=f"{_CALL}{_WORD}{_SEP}",
        behind_name="\n```json\n",
        after=f"\n```{_CALL_END}",
        between="\n",
        end=_CALLS_END,
    ),
)
DEEPSEEK_V31: Final = MarkedFormat(
    name="deepseek_v31",
    blocks=_BLOCKS,
    trails=(_CALLS_END,),
    more_shown=(_SEP,),
    recognises=spells(_CALL, _SEP),
    spell=named_speller(begin=_CALLS, before=_CALL, behind_name=_SEP, after=_CALL_END, end=_CALLS_END),
    write_rules=named_rules(begin=_CALLS, before=_CALL, behind_name=_SEP, after=_CALL_END, end=_CALLS_END),
)


_DSML: Final = "｜DSML｜"


def _dsml(name: str, section: str) -> MarkedFormat:
    """V3.2 and V4 differ in the name of the tag around all calls. Both are read in both."""
    begin, end = f"<{_DSML}{section}>", f"</{_DSML}{section}>"
    return MarkedFormat(
        name=name,
        blocks=(_TAGS.block,),
        trails=_TAGS.trails,
        more_shown=(_DSML, *_TAGS.inner),
        recognises=spells(_DSML, section, "invoke"),
        own_triggers=(Trigger(begin),),
        write_rules=tag_rules(_TAGS, _TAGS.tags(says_type=True), begin=f"{begin}\n", between="\n", end=f"\n{end}"),
    )


_TAGS: Final = TagSyntax(
    sections=tuple((f"<{_DSML}{each}>", f"</{_DSML}{each}>") for each in ("function_calls", "tool_calls")),
    function=(f"<{_DSML}invoke", f"</{_DSML}invoke>"),
    parameter=(f"<{_DSML}parameter", f"</{_DSML}parameter>"),
    bare_is_certain=True,
)
DEEPSEEK_V32: Final = _dsml("deepseek_v32", "function_calls")
DEEPSEEK_V4: Final = _dsml("deepseek_v4", "tool_calls")
