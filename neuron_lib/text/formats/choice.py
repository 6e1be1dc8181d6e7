"""Chooses the tool format of a model by what its chat template and its vocabulary show, never by its name. Pure."""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from neuron_lib.errors import LoadFailed
from neuron_lib.text.formats.deepseek import DEEPSEEK_R1, DEEPSEEK_V4, DEEPSEEK_V31, DEEPSEEK_V32
from neuron_lib.text.formats.functionary import FUNCTIONARY_3_1, FUNCTIONARY_3_2
from neuron_lib.text.formats.gemma import FUNCTION_GEMMA, GEMMA4
from neuron_lib.text.formats.harmony import HARMONY
from neuron_lib.text.formats.hermes import GENERIC, HERMES, JSON, JSON_LIST
from neuron_lib.text.formats.json_families import (
    APERTUS,
    APRIEL,
    COMMAND_R7B,
    HUNYUAN,
    INTERNLM2,
    JAMBA,
    MINIMAX_M1,
    NEMOTRON_V2,
)
from neuron_lib.text.formats.key_value import GLM45, GLM47, HY3, LONGCAT, LONGCAT_JSON
from neuron_lib.text.formats.kimi_k2 import KIMI_K2
from neuron_lib.text.formats.kimi_k3 import KIMI_K3
from neuron_lib.text.formats.llama import LLAMA_JSON, LLAMA_PYTHONIC
from neuron_lib.text.formats.minicpm import MINICPM
from neuron_lib.text.formats.minimax_m2 import MINIMAX_M2
from neuron_lib.text.formats.minimax_m3 import MINIMAX_M3
from neuron_lib.text.formats.mistral import MISTRAL, MISTRAL_ARGS, MISTRAL_IDS
from neuron_lib.text.formats.python_families import LFM2, OLMO_3
from neuron_lib.text.formats.qwen_xml import QWEN_XML, SEED_OSS
from neuron_lib.text.formats.step3 import STEP_3
from neuron_lib.text.formats.tool_format import ToolFormat
from neuron_lib.text.formats.value_families import COMMAND_R_PLUS, FIREFUNCTION, GIGACHAT_3, GRANITE_3, PHI_4_MINI
from neuron_lib.text.reasoning import REASONING_MARKERS
from neuron_lib.text.tag_splitter import Markers

__all__ = ("FORMATS", "choose_format", "choose_reasoning", "named_format", "shows_tools")

_BY_MARKS: Final[tuple[ToolFormat, ...]] = (
    # Formats whose marks are special come before formats whose marks others have too.
    HARMONY,
    KIMI_K3,
    KIMI_K2,
    DEEPSEEK_V32,
    DEEPSEEK_V4,
    DEEPSEEK_R1,
    DEEPSEEK_V31,
    MINIMAX_M3,
    MINIMAX_M2,
    GEMMA4,
    FUNCTION_GEMMA,
    HY3,
    LONGCAT,
    LONGCAT_JSON,
    STEP_3,
    SEED_OSS,
    MINICPM,
    QWEN_XML,
    GLM45,
    GLM47,
    MISTRAL_IDS,
    MISTRAL_ARGS,
    MISTRAL,
    APERTUS,
    APRIEL,
    COMMAND_R7B,
    COMMAND_R_PLUS,
    NEMOTRON_V2,
    INTERNLM2,
    GIGACHAT_3,
    FIREFUNCTION,
    FUNCTIONARY_3_2,
    LFM2,
    OLMO_3,
    GRANITE_3,
    PHI_4_MINI,
    HUNYUAN,
    MINIMAX_M1,
    JAMBA,
    HERMES,
    FUNCTIONARY_3_1,
)
"""Formats whose markers a template spells, in the order in which they are tried."""

_BY_WORDS: Final[tuple[ToolFormat, ...]] = (LLAMA_PYTHONIC, LLAMA_JSON, JSON_LIST, JSON)
"""Formats without markers. Only a template that shows tools can ask for them."""

_BY_TOKENS: Final[tuple[tuple[str, ToolFormat], ...]] = (
    ("<|tool_call_start|>", LFM2),
    ("[TOOL_CALLS]", MISTRAL),
    ("<|action_start|>", INTERNLM2),
    ("<|START_ACTION|>", COMMAND_R7B),
    ("<|tools_prefix|>", APERTUS),
)
"""Tokens of a vocabulary that are made for calls, for a template that shows tools and spells no marker."""

FORMATS: Final[Mapping[str, ToolFormat]] = {each.name: each for each in (*_BY_MARKS, *_BY_WORDS, GENERIC)}
"""All formats by name."""

_SPELLED_REASONING: Final = (
    Markers("<thinking>", "</thinking>"),
    Markers("◁think▷", "◁/think▷"),
    Markers("<|begin_of_thought|>", "<|end_of_thought|>"),
    Markers("Here is my thought process:", "Here is my response:"),
    Markers("Here's my thought process:", "Here's my response:"),
)
"""Markers of single families. Only a template that spells them can ask for them."""

_BEGIN: Final = re.compile(r"\{[%{]")
_END: Final = re.compile(r"[%}]\}")
# A literal that is not closed extends to the end of the source. So the search is linear for every source.
_LITERAL: Final = re.compile(r"""'(?:[^'\\]|\\.)*'?|"(?:[^"\\]|\\.)*"?""", re.DOTALL)
_TOOLS: Final = re.compile(r"(?<![.\w])\w*tools\b")


def _in_no_vocabulary(_text: str) -> bool:
    return False


def choose_format(template: str | None, is_token: Callable[[str], bool] = _in_no_vocabulary) -> ToolFormat:
    """The format in which the Jinja source `template` asks for calls.

    The generic format if it shows no tools, or in no way that is known. `is_token` says whether a text is one token of
    the vocabulary.
    """
    if template is None:
        return GENERIC
    by_marks = next((each for each in _BY_MARKS if each.fits(template)), None)
    if by_marks is not None:
        return by_marks
    if not shows_tools(template):
        return GENERIC
    by_token = next((each for token, each in _BY_TOKENS if is_token(token)), None)
    return by_token or next((each for each in _BY_WORDS if each.fits(template)), GENERIC)


def named_format(name: str) -> ToolFormat:
    """The format of this name. Raises `LoadFailed` if there is none."""
    if name not in FORMATS:
        raise LoadFailed(f"there is no tool format {name!r}; there are {', '.join(sorted(FORMATS))}")
    return FORMATS[name]


def choose_reasoning(
    tool_format: ToolFormat, template: str | None, is_token: Callable[[str], bool] = _in_no_vocabulary
) -> Markers | None:
    """The markers around reasoning, None if the model is not known to reason.

    They are the format's own, or else the first pair of which both are single tokens of the vocabulary, or of which the
    template spells the closing one.
    """
    if tool_format.reasoning is not None:
        return tool_format.reasoning
    for pair in REASONING_MARKERS:
        if is_token(pair.open) and is_token(pair.close):
            return pair
    spelled = "" if template is None else template
    return next((pair for pair in (*REASONING_MARKERS, *_SPELLED_REASONING) if pair.close in spelled), None)


def shows_tools(template: str) -> bool:
    """Whether the Jinja source `template` reads the variable `tools`, or one with a longer name such as `xml_tools`."""
    return any(_TOOLS.search(code) for code in _code(template))


def _code(template: str) -> Iterator[str]:
    """The text between Jinja's braces, without the quoted texts."""
    for piece in _BEGIN.split(template)[1:]:
        yield _END.split(_LITERAL.sub("", piece), maxsplit=1)[0]
