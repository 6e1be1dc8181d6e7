"""Chooses the GGUF files to load from the listing of a repository. Pure: files in, files or a refusal out.

Reads names and sizes only. The header reader checks the content of a file.
"""

import re
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from neuron_lib.errors import PreflightFailed, PreflightKind
from neuron_lib.sources.foreign_text import one_line
from neuron_lib.sources.quants import VARIANTS, Tag, bits_in_words, bits_per_weight, find_tag, why_not_loadable
from neuron_lib.sources.repository import RepoFile, is_safe_path
from neuron_lib.types import public_id

__all__ = ("Selection", "has_quant", "list_models", "quant_of", "select_gguf")

_FORMATS: Final = (
    *("q4", "iq4", "mxfp4", "nvfp4", "q5", "q6", "q8"),
    *("q3", "iq3", "q2", "iq2", "tq2", "iq1", "q1", "tq1"),
    *("bf16", "f16", "f32"),
)
"""The order in which formats are taken if none is asked for.

Four bits come first: llama.cpp, Ollama and LM Studio take Q4_K_M, and most repositories have it. Then come more bits,
which cost memory, and then fewer, which cost quality. Sixteen bits come last: twice the memory of Q8_0 for a difference
that is hardly visible.
"""

_PART: Final = re.compile(r"-(?P<number>[0-9]{5})-of-(?P<count>[0-9]{5})\.gguf$", re.IGNORECASE)

_NEVER: Final = re.compile(
    r"mmproj|imatrix|ggml-vocab-|control[-_]?vector"
    r"|(?<![a-z0-9])(?:lora|adapter)s?(?![a-z0-9])(?!.*merged)"
    r"|(?<![a-z0-9])(?:eagle3|dflash|dspark)(?![a-z0-9])"
    r"|(?:^|/)(?:draft|mtp)s?[-_./]"
)
"""Image projectors, quantisation statistics, vocabularies, adapters and drafting heads, by path in lower case."""

_PIECE: Final = (
    r"\.gguf[-._]?(?:split|part|p)?[-._]?(?:a?[a-z]|[0-9]{1,5})(?:[-._]?of[-._]?[0-9]{1,5})?$"
    r"|[-._](?:split[-._]?a?[a-z]|part[-._]?[0-9]{1,3}[-._]?of[-._]?[0-9]{1,3})\.gguf$"
)
"""A file that was cut with a tool other than llama.cpp's own, whose parts would be GGUF files themselves."""

_PERHAPS: Final = re.compile(r"(?<![a-z0-9])(?:draft|eagle|mtp|embeddings?|heads?)(?![a-z0-9])")
"""Words of helper files that also occur in names of whole models. So they count only if there is something better."""

_OTHER_WEIGHTS: Final = tuple(
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        (_PIECE, "has its GGUF cut into pieces that must be joined first"),
        (r"(?<!adapter_model)\.safetensors$", "has only safetensors weights"),
        (r"(?:^|/)adapter_model\.(?:safetensors|bin)$", "has only an adapter for another model"),
        (r"ggml[^/]*\.bin$", "has only GGML weights, the format before GGUF"),
        (r"(?:^|/)(?:pytorch_model|consolidated)[^/]*\.bin$|\.(?:pth|pt)$", "has only PyTorch weights"),
        (r"\.onnx$", "has only ONNX weights"),
        (r"\.npz$|\.mlx$", "has only MLX weights"),
        (r"\.(?:h5|msgpack)$", "has only TensorFlow or Flax weights"),
    )
)
_REPACKED: Final = re.compile(r"(?:-(?:gguf|awq|gptq|int[48]|fp8|mlx|onnx|[0-9]-?bit|bnb|unsloth))+$", re.IGNORECASE)
_USUAL_NAMES: Final = (
    "{org}/{name}-GGUF",
    "ggml-org/{name}-GGUF",
    "unsloth/{name}-GGUF",
    "bartowski/{org}_{name}-GGUF",
    "bartowski/{name}-GGUF",
    "lmstudio-community/{name}-GGUF",
    "mradermacher/{name}-GGUF",
)

_LONGEST_QUANT: Final = 256  # no file name is longer
_MOST_NAMED: Final = 12
_SHOWN_NAME: Final = 100
_MOST_AVAILABLE: Final = 300
_LONGEST_AVAILABLE: Final = 200


class Selection(Struct, frozen=True):
    """The files of one model: one GGUF, or every part of a split one in order. The engine is given the first.

    `quant` is the tag in the spelling of the name (`Q4_K_M`, `UD-Q4_K_XL`), None if the name has none. `missing` is the
    first part that is not there. Only `list_models` returns models with a missing part.
    """

    files: tuple[RepoFile, ...]
    quant: str | None
    missing: str | None = None


class _Name(Struct, frozen=True):
    """A file name or a request, taken apart: its tag, and all other words in lower case with a blank around each."""

    tag: Tag
    words: str


class _Candidate(Struct, frozen=True):
    """One model of a repository. `missing` is the first part of a split model that is not listed."""

    name: _Name
    files: tuple[RepoFile, ...]
    missing: str | None

    @property
    def known_bytes(self) -> int:
        return sum(file.size or 0 for file in self.files)


def select_gguf(
    files: Sequence[RepoFile], *, quant: str | None, model_id: str, room_bytes: int | None = None
) -> Selection:
    """Choose among the `files` of a repository by `quant`: a tag, words of a file name, or both (`7b-q4_k_m`).

    Case and the separators `_ - .` do not matter (`q4km` finds `Q4_K_M`). A tag must be whole (`f16` does not find
    `bf16`) or name a family (`q4k` finds `Q4_K_M`, then `Q4_K_S`). Without a tag the best default that fits into
    `room_bytes` of memory is chosen, otherwise the smallest file. An unknown size counts as nothing. A file that
    llama.cpp does not load, by its name, is never chosen. Raises `PreflightFailed`
    (`docs/reference/wire-contract.md#choose-a-file`).
    """
    candidates = _candidates(files)
    if not candidates:
        raise _nothing_to_load(files, model_id)
    request = (quant or "").strip()[:_LONGEST_QUANT]
    wanted = _read(request)
    loadable = [each for each in candidates if why_not_loadable(each.name.tag) is None]
    matches = [each for each in loadable if not request or _matches(each.name, wanted)]
    if not matches:
        raise _not_found(files, candidates, request, model_id) if request else _nothing_loadable(candidates, model_id)
    chosen = _nearest_member(matches, wanted.tag) if wanted.tag.text else _best_default(matches, room_bytes)
    if chosen.missing is not None:
        message = f"{model_id}: a part of the model is missing: {one_line(chosen.missing)}"
        raise PreflightFailed(PreflightKind.FILE_NOT_FOUND, message, model_id=model_id, file=chosen.missing)
    return Selection(chosen.files, chosen.name.tag.text)


def quant_of(path: str) -> str | None:
    """The quantisation in a path, in the spelling of the path (`UD-Q4_K_XL`). None if the path names none."""
    return _read(path).tag.text


def has_quant(path: str, quant: str) -> bool:
    """Whether `quant` could choose this file."""
    return _matches(_read(path), _read(quant))


def list_models(files: Sequence[RepoFile]) -> tuple[Selection, ...]:
    """Every model among the files, also models that lack a part."""
    return tuple(Selection(each.files, each.name.tag.text, each.missing) for each in _candidates(files))


def _candidates(files: Sequence[RepoFile]) -> list[_Candidate]:
    """The models among the files. A split model is one model, and a later part alone is none."""
    models: dict[tuple[str, int], dict[int, RepoFile]] = {}
    for file in sorted(files, key=lambda each: each.path):
        if not _is_gguf_model(file.path):
            continue
        part = _PART.search(file.path)
        stem, number, count = (file.path[: part.start()], int(part[1]), int(part[2])) if part else (file.path, 1, 1)
        if 1 <= number <= count:
            models.setdefault((stem, count), {})[number] = file
    found = [_candidate(stem, count, parts) for (stem, count), parts in sorted(models.items())]
    return [each for each in found if not _PERHAPS.search(each.files[0].path.lower())] or found


def _candidate(stem: str, count: int, parts: dict[int, RepoFile]) -> _Candidate:
    files = tuple(parts[number] for number in sorted(parts))
    absent = (f"{stem}-{number:05}-of-{count:05}.gguf" for number in range(1, count + 1) if number not in parts)
    return _Candidate(_read(files[0].path), files, missing=next(absent, None))


def _is_gguf_model(path: str) -> bool:
    lower = path.lower()
    return lower.endswith(".gguf") and is_safe_path(path) and not _NEVER.search(lower) and not re.search(_PIECE, lower)


def _read(text: str) -> _Name:
    stem = re.sub(r"\.gguf$", "", _PART.sub("", text), flags=re.IGNORECASE)
    tag, rest = find_tag(stem)
    return _Name(tag, "".join(f" {word}" for word in _words(rest)) + " ")


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[\W_]+", text.lower()) if word]


def _matches(name: _Name, wanted: _Name) -> bool:
    if wanted.words not in name.words:
        return False
    asked, tag = wanted.tag, name.tag
    if asked.text is None:
        return wanted.words != " "
    return (
        asked.format == tag.format
        and asked.variant == tag.variant[: len(asked.variant)]
        and asked.layout == tag.layout
        and asked.prefix in {"", tag.prefix}
    )


def _nearest_member(matches: list[_Candidate], asked: Tag) -> _Candidate:
    """The quant that is asked for, otherwise the first of its family; plain before `UD-`.

    Of two with the same tag the complete one is taken, then the one with the shorter name.
    """

    def order(each: _Candidate) -> tuple[object, ...]:
        tag, rest = each.name.tag, each.name.tag.variant[len(asked.variant) :]
        return bool(rest), each.missing is not None, tag.prefix, _variant_order(rest), *_tie_break(each)

    return min(matches, key=order)


def _best_default(matches: list[_Candidate], room_bytes: int | None) -> _Candidate:
    """The first in the order of preference that fits, otherwise the smallest.

    Files named `UD-` differ from model to model, so the plain file of the same tag goes first.
    """

    def order(each: _Candidate) -> tuple[object, ...]:
        tag = each.name.tag
        return _rank(_FORMATS, tag.format), _variant_order(tag.variant), tag.prefix, *_tie_break(each)

    usable = [each for each in matches if each.missing is None] or matches
    ranked = sorted(usable, key=order)
    fitting = (each for each in ranked if room_bytes is None or _fits(each.known_bytes, room_bytes))
    return next(fitting, None) or min(ranked, key=lambda each: each.known_bytes)


def _fits(weights_bytes: int, room_bytes: int) -> bool:
    # A fifth stays free for the KV cache and the compute buffers. Measured for Llama 3.1 8B at Q4_K_M: the weights take
    # 4.6 GiB. 8192 tokens of context take 1 GiB (32 layers, 8 heads of 128, K and V in 16 bits). The buffers take
    # 0.3 GiB.
    return weights_bytes * 5 <= room_bytes * 4


def _variant_order(variant: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(_rank(VARIANTS, each) for each in (*variant, ""))


def _rank(order: tuple[str, ...], item: str) -> int:
    return order.index(item) if item in order else len(order)


def _tie_break(candidate: _Candidate) -> tuple[object, ...]:
    path = candidate.files[0].path
    return path.count("/"), len(path), path


def _nothing_to_load(files: Sequence[RepoFile], model_id: str) -> PreflightFailed:
    # An unsafe path may be as long as a hub likes, and may control a terminal.
    paths = sorted(file.path for file in files if is_safe_path(file.path))
    if "model_index.json" in paths:
        message = f"{model_id} is a diffusion pipeline; this engine needs a language model as a GGUF file"
        return PreflightFailed(PreflightKind.GGUF_REQUIRED, message, model_id=model_id, suggestions=())
    found = next((words for pattern, words in _OTHER_WEIGHTS if any(map(pattern.search, paths))), None)
    if found is not None:
        suggestions = _suggestions(model_id)
        message = f"{model_id} {found}; this engine needs a GGUF file, often to be found in {', '.join(suggestions)}"
        return PreflightFailed(PreflightKind.GGUF_REQUIRED, message, model_id=model_id, suggestions=suggestions)
    message = f"{model_id} has no weights this engine knows"
    ggufs = [file.path for file in files if file.path.lower().endswith(".gguf")]
    if others := [path for path in paths if path.lower().endswith(".gguf")]:
        message = f"{model_id} has GGUF files, but no model among them: {_shortened(others)}"
    elif ggufs:
        message = f"{model_id} has GGUF files only under names that are not safe, such as {one_line(repr(ggufs[0]))}"
    return PreflightFailed(PreflightKind.EMPTY_REPO, message, model_id=model_id)


def _nothing_loadable(candidates: Sequence[_Candidate], model_id: str) -> PreflightFailed:
    suggestions = _suggestions(model_id)
    message = (
        f"{model_id} has no file that llama.cpp loads: {_unloadable(candidates[0])}; "
        f"a GGUF file that it does load is often to be found in {', '.join(suggestions)}"
    )
    return PreflightFailed(PreflightKind.GGUF_REQUIRED, message, model_id=model_id, suggestions=suggestions)


def _unloadable(candidate: _Candidate) -> str:
    return f"{_shown(candidate.files[0].path)} {why_not_loadable(candidate.name.tag)}"


def _suggestions(model_id: str) -> tuple[str, ...]:
    """The usual names of repositories with GGUF files of a model, its own publisher first."""
    org, _, name = public_id(model_id).partition("/")
    name = _REPACKED.sub("", name)
    return tuple(dict.fromkeys(usual.format(org=org, name=name) for usual in _USUAL_NAMES))


def _not_found(
    files: Sequence[RepoFile], candidates: Sequence[_Candidate], request: str, model_id: str
) -> PreflightFailed:
    wanted = _read(request)
    loadable = [each for each in candidates if why_not_loadable(each.name.tag) is None]
    available = tuple(sorted(each.files[0].path.lower() for each in loadable))
    nearest = _nearest(loadable, request)
    reason = _why_unusable(files, candidates, wanted)
    hint = (f" that can be loaded: {reason}" if reason else "") + (f"; nearest: {nearest!r}" if nearest else "")
    message = (
        f"{model_id} has no file for quant {_shown(request)!r}{hint}; available: {_shortened(available) or 'none'}"
    )
    return PreflightFailed(
        PreflightKind.QUANT_NOT_FOUND,
        message,
        model_id=model_id,
        requested=request,
        available=tuple(name for name in available if len(name) <= _LONGEST_AVAILABLE)[:_MOST_AVAILABLE],
        nearest=nearest,
    )


def _why_unusable(files: Sequence[RepoFile], candidates: Sequence[_Candidate], wanted: _Name) -> str | None:
    """Why the existing files of the wanted quant cannot be used. None if there are no such files."""
    for each in candidates:
        if why_not_loadable(each.name.tag) and _matches(each.name, wanted):
            return _unloadable(each)
    for file in sorted(files, key=lambda each: each.path):
        piece = re.search(_PIECE, file.path, re.IGNORECASE)
        if piece and is_safe_path(file.path) and _matches(_read(file.path[: piece.start()]), wanted):
            return f"{_shown(file.path)} is a piece of a file that must be joined first"
    return None


def _nearest(candidates: Sequence[_Candidate], request: str) -> str | None:
    """The tag with about as many bits as the request. If the request is not a quant, the tag with the most similar
    spelling.
    """
    tags = {each.name.tag.text.lower(): each.name.tag for each in candidates if each.name.tag.text}
    bits = bits_per_weight(_read(request).tag) or bits_in_words(request)

    def distance(text: str) -> tuple[float, object]:
        own = bits_per_weight(tags[text])
        if bits is None or own is None:
            return _edit_distance(text, request.lower()), text
        # Of two equally near tags the plain one of a usual kind is taken.
        return round(abs(own - bits), 1), (tags[text].prefix, _variant_order(tags[text].variant), text)

    return min(tags, key=distance, default=None)


def _shortened(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(map(_shown, names[:_MOST_NAMED])) + (f" and {more} more" if more > 0 else "")


def _shown(name: str) -> str:
    return one_line(name, limit=_SHOWN_NAME)


def _edit_distance(left: str, right: str) -> int:
    """The number of insertions, deletions and replacements of single characters that turn one text into the other."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        previous, row = row, [i]
        for j, b in enumerate(right, 1):
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + (a != b)))
    return row[-1]
