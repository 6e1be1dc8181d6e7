"""Chooses the tool format of a model by what its chat template shows, never by the model's name. Pure."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from neuron_lib.text.formats.hermes import HERMES
from neuron_lib.text.formats.tool_format import ToolFormat
from neuron_lib.text.reasoning import REASONING_MARKERS
from neuron_lib.text.tag_splitter import Markers

__all__ = ("FORMATS", "choose_format", "choose_reasoning", "shows_tools")

_IN_ORDER: Final[tuple[ToolFormat, ...]] = (
    # Formats whose marks are special come before formats whose marks others have too.
    HERMES,
)

FORMATS: Final[Mapping[str, ToolFormat]] = {each.name: each for each in _IN_ORDER}
"""All formats by name."""

_BEGIN: Final = re.compile(r"\{[%{]")
_END: Final = re.compile(r"[%}]\}")
# A literal that is not closed extends to the end of the source. So the search is linear for every source.
_LITERAL: Final = re.compile(r"""'(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?""", re.DOTALL)
_TOOLS: Final = re.compile(r"(?<![.\w])tools\b")


def choose_format(template: str | None) -> ToolFormat | None:
    """The format in which the Jinja source `template` asks for calls, None if it asks for none that is known."""
    if template is None or not shows_tools(template):
        return None
    return next((each for each in _IN_ORDER if each.fits(template)), None)


def choose_reasoning(format_: ToolFormat | None, is_token: Callable[[str], bool]) -> Markers | None:
    """The markers around reasoning: the format's own, or the first pair that the vocabulary has as single tokens."""
    if format_ is not None and format_.reasoning is not None:
        return format_.reasoning
    return next((pair for pair in REASONING_MARKERS if is_token(pair.open) and is_token(pair.close)), None)


def shows_tools(template: str) -> bool:
    """Whether the Jinja source `template` reads the variable `tools`."""
    return any(_TOOLS.search(code) for code in _code(template))


def _code(template: str) -> Iterator[str]:
    """The text between Jinja's braces, without the quoted texts."""
    for piece in _BEGIN.split(template)[1:]:
        yield _END.split(_LITERAL.sub("", piece), maxsplit=1)[0]
