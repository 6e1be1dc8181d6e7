"""Turns errors of msgspec into sentences for an operator: the place, the problem, the nearest name."""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, get_args, get_origin

import msgspec
from msgspec import Struct
from msgspec.structs import fields

__all__ = ("convert", "explain", "in_words", "type_at")

_Steps: TypeAlias = tuple[str | int, ...]
"""The way to a value: keys, and the indices of array items."""

# msgspec ends its messages with a path from the root `$`. In it, `[...]` stands for every key of a mapping. An error
# about such a key itself says "at `key` in".
_PLACED: Final = re.compile(r"(?P<problem>.*?)(?: - at (?P<key>`key` in )?`\$(?P<path>[^`]*)`)?", re.DOTALL)
_STEP: Final = re.compile(r"\[(?P<index>[0-9]+)\]|(?P<key>[A-Za-z0-9_]+|\[\.\.\.\])")
_SOME_KEY: Final = "[...]"
_UNKNOWN: Final = re.compile(r"Object contains unknown field `(?P<key>.*)`", re.DOTALL)
_MISSING: Final = re.compile(r"Object missing required field `(?P<key>.*)`")


def convert(value: Any, annotation: Any) -> Any:
    """`msgspec.convert` for what came from a file or a variable. Raises `msgspec.ValidationError`."""
    return msgspec.convert(value, annotation, dec_hook=_decode_path)


def explain(
    error: msgspec.ValidationError, tree: Any, schema: type[Struct], *, spell: Callable[[str], str]
) -> tuple[str, str]:
    """The place of an error that converting `tree` to `schema` raised, and a sentence about it.

    A place is written as `default_models[1].quant`; `spell` turns it into what the operator wrote.
    """
    problem, steps, is_key = _taken_apart(error)
    if is_key or _SOME_KEY in steps:
        problem, steps, is_key = _with_the_key(steps, tree, schema)
    place, annotation = _join(steps), type_at(schema, steps)
    if is_key:
        annotation = get_args(type_at(schema, steps[:-1]))[0]
    where = f" in `{spell(place)}`" if steps else ""
    if unknown := _UNKNOWN.fullmatch(problem):
        place = _join((*steps, unknown["key"]))
        return place, f"unknown key `{spell(place)}`{_hint(unknown['key'], annotation)}"
    if missing := _MISSING.fullmatch(problem):
        return place, f"the key `{missing['key']}` is missing{where}"
    if _is_struct(annotation):
        if error.__cause__ is not None:  # raised by the struct's own check
            return place, f"{problem}{where}"
        problem = "expected a table"
    return place, f"`{spell(place)}`: {in_words(problem, annotation)}"


def in_words(problem: str, annotation: Any) -> str:
    """`problem` as a part of a sentence. It has the meaning of a pattern instead of the pattern, and names the values
    of an enumeration.
    """
    problem = (problem[:1].lower() + problem[1:]).replace(" | null`", "`")  # TOML has no null
    for part in (annotation, *get_args(annotation)):
        if get_origin(part) is Literal:
            return f"{problem}; expected one of {', '.join(map(repr, get_args(part)))}"
    for part in (annotation, *get_args(annotation)):
        for meta in getattr(part, "__metadata__", ()):
            if meta.pattern and meta.description:
                return problem.replace(f"`str` matching regex {meta.pattern!r}", meta.description)
    return problem


def type_at(annotation: Any, steps: Sequence[str | int]) -> Any:
    """The type of the value that the steps lead to from a value of type `annotation`; None if they lead nowhere."""
    for step in steps:
        parts = [part for part in (annotation, *get_args(annotation)) if get_origin(part) in {tuple, dict, Mapping}]
        if _is_struct(annotation):
            annotation = next((f.type for f in fields(annotation) if f.name == step), None)
        elif parts and step != "" and isinstance(step, int) is (get_origin(parts[0]) is tuple):
            annotation = _part(parts[0], step)
        else:
            return None
    return annotation


def _part(annotation: Any, step: str | int) -> Any:
    """The type of an item of a tuple or a mapping. None for a place that a tuple of fixed length does not have."""
    types = get_args(annotation)
    if not isinstance(step, int):
        return types[1]
    if types[-1] is Ellipsis:
        return types[0]
    return types[step] if step < len(types) else None


def _taken_apart(error: msgspec.ValidationError) -> tuple[str, _Steps, bool]:
    """The problem, the way to the value that has it, and whether the problem is a key of that mapping."""
    match = _PLACED.fullmatch(str(error))
    assert match is not None  # every part of the pattern is optional
    steps = _STEP.finditer(match["path"] or "")
    way = tuple(int(step["index"]) if step["index"] else step["key"] for step in steps)
    return match["problem"], way, match["key"] is not None


def _with_the_key(steps: _Steps, tree: Any, schema: type[Struct]) -> tuple[str, _Steps, bool]:
    """The error of one item of a mapping, with its key, which is found by trying the items one after another."""
    parents = steps[: steps.index(_SOME_KEY)] if _SOME_KEY in steps else steps
    mapping = tree
    for step in parents:
        mapping = mapping[step]
    for key, item in mapping.items():
        try:
            convert({key: item}, type_at(schema, parents))
        except msgspec.ValidationError as error:
            problem, below, is_key = _taken_apart(error)
            return problem, (*parents, key, *below[1:]), is_key
    raise AssertionError("no item of the mapping is wrong")


def _hint(key: str, struct: type[Struct]) -> str:
    known = struct.__struct_fields__
    near = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean `{near[0]}`?" if near else f"; known here: {', '.join(known)}"


def _join(steps: _Steps) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")


def _is_struct(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Struct)


def _decode_path(annotation: type, value: Any) -> Path:
    if annotation is not Path or not isinstance(value, str) or not value or "\0" in value:
        msg = "expected a path"
        raise ValueError(msg)
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # ~somebody who does not exist, or ~ of a service user
        msg = f"there is no home directory for {value!r}"
        raise ValueError(msg) from error
