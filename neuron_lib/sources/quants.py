"""How names spell quantisations, how many bits those take, and which of them llama.cpp does not load. Pure."""

import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

__all__ = ("VARIANTS", "Tag", "bits_in_words", "bits_per_weight", "find_tag", "why_not_loadable")

VARIANTS: Final = ("k", "m", "", "s", "l", "xl", "xxl", "xs", "xxs", "nl", "0", "1", "moe", "p", "t", "ss", "kv", "bn")
"""The order in which members of a family are taken: K before the older 0 and 1, and of the sizes the middle one first.

llama.cpp makes the middle one if a name has no size (`""`): its Q4_K is Q4_K_M.
"""

_TAG: Final = re.compile(
    r"(?<![a-z0-9])"  # otherwise `f16` would find `bf16`, and `q4_0` would find `iq4_0`
    r"(?:(?P<prefix>ud|i1)[-_. ]?)?"
    r"(?:(?P<format>i?q[1-8]|tq[1-8]|mxfp[468]|nvfp4|i2(?=[-_. ]?s)|tl[12])"
    r"(?P<variant>(?:[-_. ]?(?:kv|bn|[k01]))?(?:[-_. ]?(?:xxs|xs|ss|s|m|l|xl|xxl|nl|p|t|moe))?)"
    r"(?P<layout>[-_. ]?(?:[48][-_. ]?[48]|r(?:16|[48])))?"
    r"|(?P<float>bf16|fp?(?:16|32))(?P<rows>[-_. ]?r16)?)"
    r"(?![a-z0-9])",
    re.IGNORECASE | re.ASCII,
)
_BITS_IN_WORDS: Final = re.compile(
    r"(?<![a-z0-9])(?:(?:int|fp|nf|w)[-_ ]?)?(?P<bits>[1-8]|16|32)(?:[-_ ]?bits?)?(?![a-z0-9])",
    re.IGNORECASE | re.ASCII,
)
"""The spelling of quantisations in other engines: `int4`, `8bit`, `fp8`."""
_VARIANT: Final = re.compile(r"xxs|xxl|xs|xl|ss|nl|moe|kv|bn|[klmpst01]")

_BITS: Final[Mapping[str, float]] = {
    "f32": 32.0, "bf16": 16.0, "f16": 16.0,
    "q8": 8.5, "q7": 7.5, "q6": 6.6, "q6_0": 6.5, "q5": 5.7, "q5_0": 5.6, "q5_1": 6.1, "q5_k_s": 5.6,
    "q4": 4.9, "q4_0": 4.7, "q4_1": 5.1, "q4_k_s": 4.7, "q4_k_l": 5.0, "q4_k_xl": 5.0,
    "iq4": 4.5, "iq4_nl": 4.7, "iq5": 5.5, "iq6": 6.6, "mxfp4": 4.3, "nvfp4": 4.5, "mxfp6": 6.3, "mxfp8": 8.3,
    "q3": 4.0, "q3_k_s": 3.6, "q3_k_l": 4.3, "q3_k_xl": 4.4,
    "iq3": 3.7, "iq3_m": 3.8, "iq3_xs": 3.5, "iq3_xxs": 3.3,
    "q2": 3.2, "q2_0": 2.3, "q2_k_s": 3.0, "q2_k_l": 3.3, "q2_k_xl": 3.4,
    "iq2": 2.7, "iq2_m": 2.9, "iq2_xs": 2.6, "iq2_xxs": 2.4,
    "tq4": 4.5, "tq3": 3.5, "tq2": 2.1, "tq1": 1.7, "i2": 2.0, "tl1": 1.7, "tl2": 1.7,
    "iq1": 2.0, "iq1_m": 2.2, "q1": 1.1,
}  # fmt: skip
"""Approximate bits of one weight in a whole file, by format and the part of the variant that matters.

These are the numbers of llama.cpp's quantizer for Llama 3.1 8B, whose embeddings and last layer have more bits.
"""

_OF_A_FORK: Final = "is of a type that llama.cpp does not load; ik_llama.cpp does"
_OF_BITNET: Final = "is of a type that llama.cpp does not load; bitnet.cpp does"
_OF_OTHERS: Final = "is of a type that llama.cpp does not load"
_OF_THE_PAST: Final = "has its weights in an order that llama.cpp no longer loads; take Q4_0 instead"


_UNKNOWN_TO_LLAMA_CPP: Final = frozenset({*(f"tq{bits}" for bits in range(3, 9)), "mxfp6", "mxfp8"})


class Tag(Struct, frozen=True):
    """A quantisation as names spell it: `UD-Q4_K_XL` is (`ud`, `q4`, (`k`, `xl`)).

    `prefix` says who chose the bits and how: unsloth for each layer (`ud`), mradermacher by measured importance (`i1`).
    `layout` is an order of weights for one kind of CPU (`Q4_0_4_8`, `IQ4_K_R4`).
    """

    text: str | None = None
    prefix: str = ""
    format: str = ""
    variant: tuple[str, ...] = ()
    layout: str = ""


def find_tag(stem: str) -> tuple[Tag, str]:
    """The quantisation that a name or a request means, and the rest of the text."""
    tags = list(_TAG.finditer(stem))
    # `m-Q4_K_M-f16` and `m.f16.q5` keep some tensors in 16 bits. The other tag says what the file is.
    match = next((each for each in reversed(tags) if each["format"]), tags[-1] if tags else None)
    if match is None:
        return Tag(), stem
    tag = Tag(
        text=match[0],
        prefix=(match["prefix"] or "").lower(),
        format=(match["format"] or match["float"].replace("p", "").replace("P", "")).lower(),
        variant=tuple(_VARIANT.findall((match["variant"] or "").lower())),
        layout=re.sub(r"[\W_]", "", match["layout"] or match["rows"] or "").lower(),
    )
    return tag, f"{stem[: match.start()]} {stem[match.end() :]}"


def bits_per_weight(tag: Tag) -> float | None:
    """The approximate bits of a weight. None for a tag that does not say it."""
    for length in range(len(tag.variant), -1, -1):
        if (bits := _BITS.get("_".join((tag.format, *tag.variant[:length])))) is not None:
            return bits
    return None


def bits_in_words(text: str) -> float | None:
    """The number of bits in a text that is no quant of GGUF, such as `int4` or `8-bit`. None if the text names none."""
    named = _BITS_IN_WORDS.search(text)
    return None if named is None else float(named["bits"])


def why_not_loadable(tag: Tag) -> str | None:
    """Why llama.cpp does not load a file with this tag, as a phrase to follow the file's name. None if it does."""
    if tag.layout.isdecimal():
        return _OF_THE_PAST
    if tag.format in {"i2", "tl1", "tl2"}:
        return _OF_BITNET
    if tag.format in _UNKNOWN_TO_LLAMA_CPP:
        return _OF_OTHERS
    is_of_a_fork = (
        tag.layout != ""
        or tag.format in {"iq5", "iq6", "iq7", "iq8"}
        or (tag.format.startswith("iq") and tag.variant[:1] in {("k",), ("bn",)})
        or "kv" in tag.variant
        or (tag.format, tag.variant) == ("q6", ("0",))
    )
    return _OF_A_FORK if is_of_a_fork else None
