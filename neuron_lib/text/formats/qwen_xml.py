"""`<function=name>` around `<parameter=key>`: Qwen3-Coder, Qwen3.5, Nemotron 3, Step 3.5, and Seed-OSS."""

from typing import Final

from neuron_lib.text.formats.marked import MarkedFormat, spells
from neuron_lib.text.formats.tagged import TagSyntax, tag_rules
from neuron_lib.text.formats.tool_format import Trigger
from neuron_lib.text.formats.values import without_frame
from neuron_lib.text.tag_splitter import Markers

__all__ = ("QWEN_XML", "SEED_OSS")


def _syntax(section: tuple[str, str]) -> TagSyntax:
    return TagSyntax(
        sections=(section,),
        function=("<function=", "</function>"),
        parameter=("<parameter=", "</parameter>"),
        has_attributes=False,
        decode=without_frame,
    )


def _format(name: str, section: tuple[str, str], *, frame: str, reasoning: Markers | None = None) -> MarkedFormat:
    syntax, (begin, end) = _syntax(section), section
    return MarkedFormat(
        name=name,
        blocks=(syntax.block,),
        trails=syntax.trails,
        more_shown=syntax.inner,
        reasoning=reasoning,
        recognises=spells(begin, *syntax.inner),
        own_triggers=(Trigger(begin),),
        write_rules=tag_rules(
            syntax,
            syntax.tags(frame=frame),
            begin="",
            before=f"{begin}\n",
            after=f"\n{end}",
            between="\n",
            end="",
        ),
    )


QWEN_XML: Final = _format("qwen_xml", ("<tool_call>", "</tool_call>"), frame="\n")
SEED_OSS: Final = _format(
    "seed_oss",
    ("<seed:tool_call>", "</seed:tool_call>"),
    frame="",
    reasoning=Markers("<seed:think>", "</seed:think>"),
)
