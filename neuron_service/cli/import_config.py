"""`neuron config import`: reads the files of another server and writes a configuration. `migration` translates."""

import json
import os
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final, Literal

import tomlkit

from neuron_lib.shown import clip, printable
from neuron_service.cli.terminal import complain
from neuron_service.migration import (
    Draft,
    Note,
    NoteKind,
    Translation,
    is_ollama_settings,
    is_presets,
    read_command,
    translate_command,
    translate_llama_swap,
    translate_modelfile,
    translate_ollama_settings,
    translate_presets,
)

__all__ = ("ImportFormat", "as_file", "import_configuration", "translate")

ImportFormat = Literal["ollama", "llama-swap", "llama-server"]

_LONGEST_FILE: Final = 1 << 20
_LINE_WIDTH: Final = 110
_HEADINGS: Final[Mapping[NoteKind, str]] = {
    "lost": "Not translated:",
    "differs": "Translated, with a difference:",
    "needless": "Needs no key here:",
}


def import_configuration(
    format_: ImportFormat, files: Sequence[str], *, name: str | None, output: Path | None, as_json: bool
) -> int:
    """Translate files of another server, and print the configuration or write it to `output`.

    `files` are read in their order, `-` is stdin. `name` is what requests call the one model. Returns the exit status.
    An existing file is not replaced.
    """
    try:
        texts = [(file, _read(file)) for file in files]
        translation = translate(format_, texts, name=name, environ=os.environ)
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}; nothing was written")
        return os.EX_NOINPUT
    except ValueError as error:
        complain(f"{error}; nothing was written")
        return os.EX_DATAERR
    text = _as_json(translation) if as_json else as_file(translation, format_=format_, files=files)
    if output is None:
        sys.stdout.write(text)
    else:
        try:
            with output.open("x", encoding="utf-8") as stream:
                stream.write(text)
        except OSError as error:
            complain(f"{output}: {error.strerror}; name a file that is not there")
            return os.EX_CANTCREAT
    if lost := sum(note.kind == "lost" for note in translation.notes):
        things = "one thing was" if lost == 1 else f"{lost} things were"
        complain(f"{things} not translated; the first lines of the configuration name {'it' if lost == 1 else 'them'}")
    return 0


def translate(
    format_: ImportFormat, texts: Sequence[tuple[str, str]], *, name: str | None, environ: Mapping[str, str]
) -> Translation:
    """One configuration of the texts of all files, each with the file's name. Pure.

    Raises ValueError, which names the file, for a text that is not of this format or has no model that can be served.
    """
    if name is not None and len(texts) > 1:
        msg = "--name is for one file; translate the files one at a time"
        raise ValueError(msg)
    draft = Draft()
    for file, text in texts:
        folder = (
            PurePosixPath(os.path.normpath(Path(file).absolute().parent)) if file != "-" else PurePosixPath(Path.cwd())
        )
        try:
            _translate_one(format_, text, draft, file=file, name=name, folder=folder, environ=environ)
        except ValueError as error:
            msg = f"{file}: {error}"
            raise ValueError(msg) from error
    if format_ == "ollama" and not draft.has_key("residency.idle_ttl_secs"):
        text = "a model stays until its memory is needed; `[residency] idle_ttl_secs = 300` unloads it as Ollama does"
        draft.note("differs", "no OLLAMA_KEEP_ALIVE", text)
    translation = draft.finish()
    if format_ != "ollama" and not translation.config.get("models"):
        reasons = [f"{note.what}: {note.text}" for note in translation.notes if note.kind == "lost"]
        msg = f"{texts[0][0]}: it has no model that can be served here" + (f": {clip(reasons[0])}" if reasons else "")
        raise ValueError(msg)
    return translation


def _translate_one(
    format_: ImportFormat,
    text: str,
    draft: Draft,
    *,
    file: str,
    name: str | None,
    folder: PurePosixPath,
    environ: Mapping[str, str],
) -> None:
    where = "stdin" if file == "-" else Path(file).name
    if format_ == "llama-swap":
        translate_llama_swap(text, draft, folder=folder, environ=environ)
    elif format_ == "llama-server" and is_presets(text):
        translate_presets(text, draft, folder=folder)
    elif format_ == "llama-server":
        model_id = translate_command(read_command(text), draft, name=name, folder=folder)
        if model_id is not None:
            draft.load_at_start(model_id)
    elif is_ollama_settings(text):
        translate_ollama_settings(text, draft, where=where)
    else:
        translate_modelfile(text, draft, where=where, folder=folder, name=name)


def _read(file: str) -> str:
    """The text of a file. Raises OSError, and ValueError for one that is too long or not UTF-8."""
    if file == "-":
        content = sys.stdin.buffer.read(_LONGEST_FILE + 1)
    else:
        with Path(file).open("rb") as stream:
            content = stream.read(_LONGEST_FILE + 1)
    if len(content) > _LONGEST_FILE:
        msg = f"{file}: it is longer than 1 MiB"
        raise ValueError(msg)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        msg = f"{file}: it is not UTF-8"
        raise ValueError(msg) from None


def as_file(translation: Translation, *, format_: str, files: Sequence[str]) -> str:
    """A configuration file whose first lines say what it lacks."""
    shown = printable(" ".join(files))
    head = [
        f"Made of {shown} ({format_}) by `neuron config import`.",
        "Look through it, then: neuron config check -c FILE",
    ]
    for kind, heading in _HEADINGS.items():
        lines = list(_lines(note for note in translation.notes if note.kind == kind))
        if lines:
            head += ["", heading, *lines]
    comments = "".join(f"# {line}".rstrip() + "\n" for line in head)
    return f"{comments}\n{tomlkit.dumps(translation.config)}"


def _lines(notes: Iterator[Note]) -> Iterator[str]:
    for note in notes:
        text = f"{printable(note.what)}: {printable(note.text)}"
        yield from textwrap.wrap(
            text,
            _LINE_WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )


def _as_json(translation: Translation) -> str:
    notes = [{"kind": note.kind, "what": note.what, "text": note.text} for note in translation.notes]
    return json.dumps({"config": translation.config, "notes": notes}, indent=2) + "\n"
