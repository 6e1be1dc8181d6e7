"""Translates a model of llama-swap that is served by another program than `llama-server`: a harness of its own.

llama-swap starts the program with a free port, as a harness of the kind `process` does.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from neuron_lib.process.entry import PresetName, ProcessEntry
from neuron_lib.shown import clip
from neuron_service.migration.command_line import OtherProgram, split_words
from neuron_service.migration.draft import Draft, NoteKind, public_id
from neuron_service.migration.llama_server import GPU_VARIABLES, translate_variable

__all__ = ("HANDLED", "OF_A_PROGRAM", "STANDING", "translate_program")

_PORT, _PID = "\0port\0", "\0pid\0"
"""Stand for a port and a process id until braces that mean themselves are doubled. No file has such characters."""
STANDING: Final[Mapping[str, str]] = MappingProxyType({"PORT": _PORT, "PID": _PID})
"""What the macros of llama-swap become that stand for these."""
_NO_HARNESS_CHARACTER: Final = re.compile(r"[^a-z0-9_-]+")
_EVERYWHERE: Final = re.compile(r"(^|=)(0\.0\.0\.0|::|\[::\])$")
_CONTAINERS: Final = frozenset({"docker", "podman", "nerdctl"})
"""What runs in one has addresses of its own."""
_PUBLISHES: Final = frozenset({"-p", "--publish"})
_MODULES: Final[Mapping[str, PresetName]] = MappingProxyType(
    {
        "vllm.entrypoints.openai.api_server": "vllm",
        "sglang.launch_server": "sglang",
        "llama_cpp.server": "llama-cpp-python",
    }
)

HANDLED: Final = frozenset(
    {"cmd", "aliases", "ttl", "env", "macros", "filters"}
    | {"proxy", "checkEndpoint", "cmdStop", "useModelName", "concurrencyLimit"}
)
OF_A_PROGRAM: Final[Mapping[str, tuple[NoteKind, str]]] = MappingProxyType(
    {
        "capabilities": ("lost", "`capabilities` of the [[harnesses]] entry has other words for what a model can do"),
        "timeouts": ("differs", "a program that gives no sign of work for `stall_timeout_secs` is ended"),
    }
)
"""What is different from a model of our own engine."""


class _Words(Struct, frozen=True):
    """A command with the placeholders of a harness, and what had to be changed in it."""

    words: tuple[str, ...]
    changes: tuple[str, ...]


def translate_program(
    name: str, model: Mapping[str, Any], found: OtherProgram, draft: Draft, *, expand: Callable[[str], str]
) -> str | None:
    """Add a harness and its model to a draft. Returns the id of the model; None, with a note, if that cannot be.

    `found` is what the command with `PORT` runs. `expand` replaces macros.
    """
    where = f"models.{clip(name)}"
    try:
        command = _command(model, found)
        stop = split_words(expand(str(model.get("cmdStop") or "")))
    except ValueError as error:
        draft.note("lost", f"{where}.cmd", str(error))
        return None
    model_id, harness = public_id(name), _harness_name(name, draft)
    entry: dict[str, Any] = {"name": harness, "kind": "process", "command": [*command.words]}
    preset = _preset(found.words)
    if preset is not None:
        entry["preset"] = preset
    entry["model_name"] = _literal(str(model.get("useModelName") or name))
    problem = _refusal(entry)
    if problem is None and not draft.add_model(model_id, {"harness": harness}, what=where):
        return None
    if problem is not None:
        draft.note("lost", f"{where}.cmd", problem)
        return None
    for what, key, value in _more(model, stop, has_preset=preset is not None):
        if (problem := _refusal({**entry, key: value})) is not None:
            draft.note("lost", f"{where}.{what}", problem)
        else:
            entry[key] = value
    _translate_variables([*found.variables, *_texts(model.get("env"))], entry, draft, where, model_id)
    for change in command.changes:
        draft.note("differs", f"{where}.cmd", change)
    if model.get("checkEndpoint") == "none" and preset is None:
        draft.note("differs", f"{where}.checkEndpoint", "the program serves when it answers /v1/models")
    text = f"the harness {harness} serves it; `capabilities` there says what the model can do, if not write text"
    draft.note("differs", where, text)
    draft.add_harness(entry)
    draft.alias(name, model_id, what=where)
    return model_id


def _command(model: Mapping[str, Any], found: OtherProgram) -> _Words:
    """Raises ValueError for a command that says nowhere where to listen."""
    words, changes = [*found.words], []
    if not any(_PORT in word for word in words) and (port := _port_of(model.get("proxy"))) is not None:
        words = [re.sub(rf"(?<![0-9.]){port}(?![0-9.])", _PORT, word) for word in words]
        changes.append(f"it gets a free port in place of {port}")
    if not any(_PORT in word for word in words):
        msg = "it says nowhere on which port to listen; put ${PORT} into it"
        raise ValueError(msg)
    if PurePosixPath(words[0]).name not in _CONTAINERS and any(map(_EVERYWHERE.search, words)):
        words = [_EVERYWHERE.sub(r"\g<1>127.0.0.1", word) for word in words]
        changes.append("it listens on the loopback alone")
    for index, word in enumerate(words[:-1]):
        if word in _PUBLISHES and words[index + 1].startswith(f"{_PORT}:"):
            words[index + 1] = f"127.0.0.1:{words[index + 1]}"
            changes.append("the port is published on the loopback alone")
    if _preset(words) == "vllm" and not any(word.partition("=")[0] in {"--host", "--uds"} for word in words):
        words += ["--host", "127.0.0.1"]
        changes.append("it listens on the loopback alone")
    return _Words(tuple(map(_literal, words)), tuple(dict.fromkeys(changes)))


def _more(model: Mapping[str, Any], stop: Sequence[str], *, has_preset: bool) -> Iterator[tuple[str, str, Any]]:
    """Further keys of the harness: the word of llama-swap, the key and its value."""
    endpoint = model.get("checkEndpoint", None if has_preset else "/health")
    if endpoint not in {None, "none"}:
        yield "checkEndpoint", "ready", {"path": endpoint}
        yield "checkEndpoint", "health", {"path": endpoint}
    if stop:
        yield "cmdStop", "stop", {"command": [_literal(word) for word in stop]}
    if (limit := model.get("concurrencyLimit")) not in {None, 0}:
        yield "concurrencyLimit", "admission", {"max_in_flight": limit}


def _translate_variables(
    variables: Sequence[str], entry: dict[str, Any], draft: Draft, where: str, model_id: str
) -> None:
    env: dict[str, str] = {}
    for variable in variables:
        name, _, value = variable.partition("=")
        if name in GPU_VARIABLES:
            translate_variable(variable, draft, what=f"{where}.env:", model_id=model_id)
        elif (problem := _refusal({**entry, "env": {name: _literal(value)}})) is not None:
            draft.note("lost", f"{where}.env: {clip(name)}", problem)
        else:
            env[name] = _literal(value)
    if env:
        entry["env"] = env


def _refusal(entry: Mapping[str, Any]) -> str | None:
    try:
        msgspec.convert(entry, ProcessEntry)
    except msgspec.ValidationError as error:
        return str(error)
    return None


def _literal(word: str) -> str:
    """The word as it stands in a command of a harness, where braces are placeholders."""
    return word.replace("{", "{{").replace("}", "}}").replace(_PORT, "{port}").replace(_PID, "{pid}")


def _port_of(proxy: object) -> int | None:
    try:
        return urlsplit(str(proxy)).port
    except ValueError:
        return None


def _preset(words: Sequence[str]) -> PresetName | None:
    """The preset of the program that a command runs."""
    program = PurePosixPath(words[0]).name
    first = words[1] if len(words) > 1 else ""
    if program == "vllm" and first == "serve":
        return "vllm"
    if program == "whisper-server":
        return "whisper-server"
    is_python = program.startswith("python") and first == "-m"
    return _MODULES.get(words[2]) if is_python and len(words) > 2 else None


def _harness_name(name: str, draft: Draft) -> str:
    """A name for the harness that no other one has."""
    wanted = _NO_HARNESS_CHARACTER.sub("-", name.lower()).strip("-_")[:40] or "program"
    wanted = wanted if wanted[0].isalpha() else f"p-{wanted}"
    taken = {"llamacpp", "candle", *draft.harness_names}
    number, found = 1, wanted
    while found in taken:
        number += 1
        found = f"{wanted}-{number}"
    return found


def _texts(value: object) -> list[str]:
    return [str(each) for each in value] if isinstance(value, list) else []
