"""Translates Ollama's Modelfile: one model, with what its instructions say.

`ollama show --modelfile NAME` writes a Modelfile of every model that Ollama has. Its FROM names the GGUF file on this
disk, so the model need not be fetched again.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePosixPath
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from neuron_lib.shown import clip
from neuron_service.migration.draft import LLAMACPP, Draft, Note, public_id
from neuron_service.migration.of_llamacpp import note_endless_reply, set_layers

__all__ = (
    "INSTRUCTIONS",
    "LOST_PARAMETERS",
    "OTHER_PARAMETERS",
    "SAMPLING_KEYS",
    "Instruction",
    "read_modelfile",
    "translate_modelfile",
)

_QUOTES: Final = '"""'
_INSTRUCTION: Final = re.compile(r"\s*(?P<name>[A-Za-z]+)\s+(?P<rest>.*)", re.DOTALL)
_HUB: Final = re.compile(
    r"(?:https?://)?(?:hf\.co|huggingface\.co)/(?P<repo>[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)"
    r"(?::(?P<quant>[A-Za-z0-9][A-Za-z0-9._-]*))?",
    re.IGNORECASE,
)
_SHOWN_AS: Final = re.compile(r"^#\s*FROM\s+(?P<name>\S+)\s*$", re.MULTILINE)
"""The comment of `ollama show --modelfile` that has the name of the model."""

SAMPLING_KEYS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "temperature": "temperature",
        "top_k": "top_k",
        "top_p": "top_p",
        "min_p": "min_p",
        "typical_p": "typical_p",
        "repeat_penalty": "repetition_penalty",
        "repeat_last_n": "repeat_last_n",
        "presence_penalty": "presence_penalty",
        "frequency_penalty": "frequency_penalty",
        "num_predict": "max_tokens",
    }
)

LOST_PARAMETERS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "seed": "send `seed` with each request",
        "stop": "send `stop` with each request; the tokens that end a reply of the model need no such line",
        "mirostat": "no Mirostat here",
        "mirostat_eta": "no Mirostat here",
        "mirostat_tau": "no Mirostat here",
        "tfs_z": "no tail-free sampling here",
        "penalize_newline": "line feeds are penalised like other tokens",
        "num_keep": "a conversation that is too long is refused, never cut",
        "main_gpu": "name the GPU in `devices` of the entry",
        "low_vram": "`gpu_layers` and `kv_type_k` say what is on the GPU",
        "use_mlock": "weights are mapped into memory",
        "numa": "for the whole service systemd has NUMAPolicy=",
        "vocab_only": "a model is loaded whole",
        "logits_all": "send `logprobs` with a request",
        "draft_num_predict": "no draft models here; `speculation` guesses from the prompt",
    }
)

INSTRUCTIONS: Final[Mapping[str, Note]] = MappingProxyType(
    {
        "TEMPLATE": Note(
            "differs",
            "TEMPLATE",
            "the Jinja template in the model's file is used; another one goes into `chat_template` of the entry",
        ),
        "SYSTEM": Note("lost", "SYSTEM", "send it as the first message of each chat"),
        "MESSAGE": Note("lost", "MESSAGE", "send it with each chat"),
        "ADAPTER": Note("lost", "ADAPTER", "no adapters here; merge the adapter into the model"),
        "LICENSE": Note("needless", "LICENSE", "the license stays with the model's file"),
        "REQUIRES": Note("needless", "REQUIRES", "it is about Ollama's own version"),
    }
)


class Instruction(Struct, frozen=True):
    """One instruction of a Modelfile: its line, its name in capital letters, and what follows, without quotes."""

    line: int
    name: str
    value: str


def read_modelfile(text: str) -> Iterator[Instruction]:
    """The instructions of a Modelfile, without comments.

    Raises ValueError, which names the line, for a line that is no instruction and for a text without an end.
    """
    lines = enumerate(text.splitlines(), start=1)
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _INSTRUCTION.fullmatch(line)
        if match is None:
            msg = f"line {number} is no instruction: {clip(line)}"
            raise ValueError(msg)
        value = match["rest"].strip()
        if value.count(_QUOTES) == 1:
            value = "\n".join((value, *_rest_of_text(lines, number)))
        yield Instruction(number, match["name"].upper(), _without_quotes(value))


def _rest_of_text(lines: Iterator[tuple[int, str]], start: int) -> Iterator[str]:
    for _, line in lines:
        yield line
        if _QUOTES in line:
            return
    msg = f'line {start} begins a text with """ that has no end'
    raise ValueError(msg)


def _without_quotes(value: str) -> str:
    for quotes in (_QUOTES, '"'):
        if len(value) >= 2 * len(quotes) and value.startswith(quotes) and value.endswith(quotes):
            return value[len(quotes) : -len(quotes)].strip()
    return value


def translate_modelfile(text: str, draft: Draft, *, where: str, folder: PurePosixPath, name: str | None = None) -> str:
    """Add the model of a Modelfile to a draft. Returns its id.

    `where` stands before each instruction in notes. `name` is what requests call the model; without it the comment of
    `ollama show` or the FROM says it. Relative paths begin at `folder`, as Ollama reads them. Raises ValueError for a
    file that is no Modelfile, and for a model that cannot be served.
    """
    instructions = list(read_modelfile(text))
    places = [each for each in instructions if each.name == "FROM"]
    if not places:
        msg = "it has no FROM, so it names no model"
        raise ValueError(msg)
    draft.key("residency.on_demand", value=True, what="Ollama")
    shown = _SHOWN_AS.search(text)
    called = name or (shown["name"] if shown else None)
    model_id = _add_model(places[0], draft, where=where, folder=folder, name=called)
    for each in places[1:]:
        draft.note("lost", _spot(where, each), "a model has one file here; further files are projectors or drafts")
    for each in instructions:
        if each.name == "PARAMETER":
            _translate_parameter(each, draft, where, model_id)
        elif each.name in INSTRUCTIONS:
            note = INSTRUCTIONS[each.name]
            draft.note(note.kind, _spot(where, each), note.text)
        elif each.name != "FROM":
            draft.note("lost", _spot(where, each), "this translation does not know the instruction")
    return model_id


def _spot(where: str, instruction: Instruction, more: str = "") -> str:
    return f"{where}, line {instruction.line}: {clip(instruction.name)}{f' {clip(more)}' if more else ''}"


def _add_model(place: Instruction, draft: Draft, *, where: str, folder: PurePosixPath, name: str | None) -> str:
    value = place.value
    if (hub := _HUB.fullmatch(value)) is not None:
        entry = {"quant": hub["quant"]} if hub["quant"] and hub["quant"].lower() != "latest" else {}
        model_id = hub["repo"]
        if draft.has(model_id):
            model_id, entry = public_id(_plain(name or value)), {"repo": hub["repo"], **entry}
    elif value.startswith(("/", "./", "../", "~")) or value.lower().endswith(".gguf"):
        if value.startswith("~"):
            msg = f"FROM {clip(value)}: write the whole path; ~ is not known here"
            raise ValueError(msg)
        path = folder / value
        entry = {"path": str(PurePosixPath(*(part for part in path.parts if part != ".")))}
        model_id = public_id(_plain(name or path.stem))
    else:
        msg = (
            f"FROM {clip(value)} is a name of Ollama's library, which only Ollama can fetch from; "
            f"give the file that `ollama show --modelfile {clip(value)}` writes, or take the model from a hub: "
            "FROM hf.co/org/name:quant"
        )
        raise ValueError(msg)
    what = _spot(where, place, value)
    if not draft.add_model(model_id, entry, what=what):
        msg = f"the model {model_id} is there twice; translate one of the files alone, with --name"
        raise ValueError(msg)
    if name is not None:
        draft.alias(name, model_id, what=what)
        draft.alias(_plain(name), model_id, what=what)
        if ":" not in name:
            draft.alias(f"{name}:latest", model_id, what=what)
    return model_id


def _plain(name: str) -> str:
    """The name without the tag that Ollama adds by itself."""
    return name.removesuffix(":latest")


def _translate_parameter(instruction: Instruction, draft: Draft, where: str, model_id: str) -> None:
    parameter, _, rest = instruction.value.partition(" ")
    name, value = parameter.lower(), _without_quotes(rest.strip())
    what = _spot(where, instruction, f"{name} {value}")
    if name in SAMPLING_KEYS:
        if name == "num_predict" and value.startswith("-"):
            note_endless_reply(draft, what)
            return
        draft.key(f"{LLAMACPP}.sampling.{SAMPLING_KEYS[name]}", value, what=what, model_id=model_id)
        text = "what a request says, and what the publisher recommends in the model's file, comes before it"
        draft.note("differs", f"{where}: PARAMETER for sampling", text)
    elif name in OTHER_PARAMETERS:
        OTHER_PARAMETERS[name](draft, what, value, model_id)
    else:
        draft.note("lost", what, LOST_PARAMETERS.get(name, "this translation does not know the parameter"))


def _set_layers(draft: Draft, what: str, value: str, model_id: str) -> None:
    if value == "0":
        draft.model_key(model_id, "devices", [], what=what)
    else:
        set_layers(draft, what, value, model_id)


def _set_context(draft: Draft, what: str, value: str, model_id: str) -> None:
    draft.model_key(model_id, "n_ctx", value, what=what)


def _set_key(key: str) -> Callable[[Draft, str, str, str], None]:
    def set_key(draft: Draft, what: str, value: str, model_id: str) -> None:
        draft.key(f"{LLAMACPP}.{key}", value, what=what, model_id=model_id)

    return set_key


def _set_mapping(draft: Draft, what: str, value: str, model_id: str) -> None:
    del model_id
    kind: Final = "needless" if value.lower() == "true" else "lost"
    draft.note(kind, what, "weights are mapped into memory")


OTHER_PARAMETERS: Final[Mapping[str, Callable[[Draft, str, str, str], None]]] = MappingProxyType(
    {
        "num_ctx": _set_context,
        "num_gpu": _set_layers,
        "num_thread": _set_key("threads"),
        "num_batch": _set_key("n_batch"),
        "use_mmap": _set_mapping,
        "f16_kv": lambda draft, what, _value, _id: draft.note("needless", what, "`kv_type_k` is f16 by default"),
    }
)
