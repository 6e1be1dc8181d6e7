"""Picks the GGUF files to load from the listing of a repository. Pure: names in, names or a refusal out."""

import re
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from neuron_lib.errors import PreflightFailed, PreflightKind

__all__ = ("Selection", "select_gguf")

_DEFAULTS: Final = ("q4_k_m", "q5_k_m", "q6_k", "q8_0", "q4_k_s", "q5_k_s", "q3_k_m", "q2_k", "q4_0", "bf16", "f16")
"""What to take first where several files would do; the rest follow by length, then alphabetically."""

_PART: Final = re.compile(r"-(?P<number>\d{5})-of-(?P<count>(?!00000)\d{5})(?=\.gguf$)", re.IGNORECASE)
_LONGEST: Final = 256  # no file system has longer names, so no longer quant can match one
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f\\]|^/|(^|/)\.\.?(/|$)")


class Selection(Struct, frozen=True):
    """The files of one model: one GGUF, or every part of a split one in order; the engine is given the first."""

    files: tuple[str, ...]


def select_gguf(files: Sequence[str], *, quant: str | None, model_id: str) -> Selection:
    """Choose among the `files` of a repository by `quant`, or by a default preference if that is None or empty.

    Case and the separators `_ - .` do not matter (`q4km` finds `Q4_K_M`); a tag must be whole (`f16` does not find
    `bf16`) or name a family (`q4k` finds `Q4_K_M`, then `Q4_K_S`). Raises `PreflightFailed` (contract §3.4, §3.6).
    """
    names = [name for name in files if _is_model(name)]
    if not names:
        raise _nothing_to_load(files, model_id)
    wanted = _stem((quant or "").strip())[:_LONGEST]
    matches = _matching(names, wanted) if wanted else names
    if not matches:
        available = tuple(name.lower() for name in names)
        nearest = min((_last_token(name) for name in available), key=lambda tag: (_edit_distance(tag, wanted), tag))
        raise PreflightFailed(
            PreflightKind.QUANT_NOT_FOUND,
            f"{model_id} has no file for quant {quant!r}; nearest: {nearest!r}; available: {', '.join(available)}",
            model_id=model_id,
            requested=quant,
            available=available,
            nearest=nearest,
        )
    return Selection(_parts(min(matches, key=_preference), frozenset(files), model_id))


def _is_model(name: str) -> bool:
    """Tell a candidate from image projectors, quantisation statistics, later parts and traps for a path join."""
    file = name.lower().rpartition("/")[2]
    part = _PART.search(file)
    is_later_part = part is not None and int(part["number"]) != 1
    is_other = is_later_part or "mmproj" in file or "imatrix" in file
    return file.endswith(".gguf") and not is_other and not _UNSAFE.search(name)


def _nothing_to_load(files: Iterable[str], model_id: str) -> PreflightFailed:
    if any(name.lower().endswith(".safetensors") for name in files):
        message = f"{model_id} has only safetensors weights; this engine needs a GGUF file"
        return PreflightFailed(PreflightKind.GGUF_REQUIRED, message, model_id=model_id)
    return PreflightFailed(PreflightKind.EMPTY_REPO, f"{model_id} has no weights this engine knows", model_id=model_id)


def _matching(names: list[str], wanted: str) -> list[str]:
    whole, family = _tag_pattern(wanted, end=r"(?![a-z0-9]|_[a-z0-9])"), _tag_pattern(wanted, end=r"(?=_[a-z])")
    return [n for n in names if whole.search(_stem(n))] or [n for n in names if family.search(_stem(n))]


def _tag_pattern(tag: str, *, end: str) -> re.Pattern[str]:
    # No letter or digit in front, or `f16` would find `bf16`, and `q4_0` would find `iq4_0`.
    letters = [re.escape(c) for c in tag if c not in "_-."]
    return re.compile(r"(?<![a-z0-9])" + r"[_.-]*".join(letters) + end) if letters else re.compile(r"(?!)")


def _preference(name: str) -> tuple[int, int, str]:
    stem = _stem(name)
    rank = next((i for i, tag in enumerate(_DEFAULTS) if _matching([stem], tag) == [stem]), len(_DEFAULTS))
    return rank, len(name), name


def _stem(name: str) -> str:
    return _PART.sub("", name.lower()).removesuffix(".gguf")


def _last_token(name: str) -> str:
    return re.split(r"[-./]", _stem(name))[-1]


def _parts(name: str, listed: frozenset[str], model_id: str) -> tuple[str, ...]:
    """Return the files behind a candidate: itself, or all parts of the split model it begins."""
    part = _PART.search(name)
    if part is None:
        return (name,)
    count = int(part["count"])
    names = tuple(f"{name[: part.start('number')]}{i:05}{name[part.end('number') :]}" for i in range(1, count + 1))
    for number, each in enumerate(names, 1):
        if each not in listed:
            message = f"{model_id}: part {number} of {count} is missing: {each}"
            raise PreflightFailed(PreflightKind.FILE_NOT_FOUND, message, model_id=model_id, file=each)
    return names


def _edit_distance(left: str, right: str) -> int:
    """How many insertions, deletions and replacements of single characters turn one into the other."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row = row, [i]
        for j, b in enumerate(right, 1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (a != b)))
    return row[-1]
