"""Whether a chat template asks for tool calls in a form that `tool_calls` reads. Pure. Reads only the source of the
template.
"""

import re
from collections.abc import Iterator
from typing import Final

from neuron_lib.text.tag_splitter import Markers

__all__ = ("asks_for_known_calls",)

_BEGIN: Final = re.compile(r"\{[%{]")
_END: Final = re.compile(r"[%}]\}")
# A literal that is not closed extends to the end of the source. So the search is linear for every source.
_LITERAL: Final = re.compile(r"""'(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?""", re.DOTALL)
_TOOLS: Final = re.compile(r"(?<![.\w])tools\b")
_JSON_KEYS: Final = tuple(re.compile(rf"""\\?["']{key}\\?["']""") for key in ("name", "arguments"))


def asks_for_known_calls(template: str | None, markers: Markers | None) -> bool:
    """Whether the Jinja source `template` shows tools, and shows calls between `markers` in a form that is read.

    Both forms of `parse_tool_calls` count. A model without template or without markers is asked for no calls.
    """
    if template is None or markers is None or markers.open not in template:
        return False
    shows_tools = any(_TOOLS.search(code) for code in _code(template))
    return shows_tools and (
        "<function=" in template
        or all(key.search(template) for key in _JSON_KEYS)
        or re.search(re.escape(markers.open) + r"[^<]{0,60}\|\s*tojson", template) is not None
    )


def _code(template: str) -> Iterator[str]:
    """The text between Jinja's braces, without the quoted texts."""
    for piece in _BEGIN.split(template)[1:]:
        yield _END.split(_LITERAL.sub("", piece), maxsplit=1)[0]
