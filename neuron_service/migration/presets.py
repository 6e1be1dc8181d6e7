"""Translates the presets of `llama-server` (`--models-preset`): an INI file with a section for each model."""

import configparser
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Final

from neuron_lib.shown import clip
from neuron_service.migration.command_line import Command
from neuron_service.migration.draft import Draft
from neuron_service.migration.llama_server import translate_command
from neuron_service.migration.llama_server_options import OPTIONS

__all__ = ("is_presets", "translate_presets")

_SECTION: Final = re.compile(r"^\[[^\]\n]+\]\s*$", re.MULTILINE)
_FOR_ALL: Final = "*"
_HEAD: Final = " "
"""The section of what stands above the first one: the version of the format."""
_REPOSITORY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(:[A-Za-z0-9][A-Za-z0-9._-]*)?")
_ON: Final = frozenset({"1", "true", "on", "enabled", "yes"})
_OFF: Final = frozenset({"0", "false", "off", "disabled", "no"})
_PLACES: Final = frozenset({"-m", "--model", "-hf", "-hfr", "--hf-repo", "-mu", "--model-url", "-dr", "--docker-repo"})


def is_presets(text: str) -> bool:
    """Whether a file has sections, and so is no command."""
    return _SECTION.search(text) is not None


def translate_presets(text: str, draft: Draft, *, folder: PurePosixPath) -> None:
    """Add the models of a file of presets to a draft. Relative paths begin at `folder`.

    What stands in the section `[*]` counts for every model. Raises ValueError for a text that is no such file.
    """
    parser = configparser.ConfigParser(
        default_section=_FOR_ALL, delimiters=("=",), interpolation=None, strict=False, empty_lines_in_values=False
    )
    parser.optionxform = str  # type: ignore[assignment,method-assign] # the documented way to keep capital letters
    try:
        parser.read_string(f"[{_HEAD}]\n{text}")
    except configparser.Error as error:
        msg = f"it is no file of presets: {clip(' '.join(str(error).split()))}"
        raise ValueError(msg) from None
    draft.key("residency.on_demand", value=True, what="presets")
    for section in parser.sections():
        if section == _HEAD:
            for name in parser[_HEAD].keys() - parser.defaults().keys() - {"version"}:
                draft.note("lost", clip(name), "it stands in no section")
            continue
        _translate_preset(section, dict(parser[section]), draft, folder)


def _translate_preset(section: str, options: dict[str, str], draft: Draft, folder: PurePosixPath) -> None:
    where = f"[{clip(section)}]"
    at_start = options.pop("load-on-startup", "false").lower()
    if options.pop("stop-timeout", None) is not None:
        text = "`drain_timeout_secs` is how long replies may go on; an engine is then ended"
        draft.note("differs", f"{where}: stop-timeout", text)
    arguments = [word for name, value in options.items() for word in _words(name, value, draft, where)]
    if _PLACES.isdisjoint(arguments) and _REPOSITORY.fullmatch(section):
        arguments = ["-hf", section, *arguments]
    command = Command(arguments=tuple(arguments))
    model_id = translate_command(command, draft, where=where, name=section, folder=folder, listens=False)
    if model_id is not None and at_start in _ON:
        draft.load_at_start(model_id)


def _words(name: str, value: str, draft: Draft, where: str) -> Iterator[str]:
    """The words of a command line that mean the same as a line of a section."""
    option = next((each for each in (f"--{name}", f"-{name}") if each in OPTIONS), None)
    if option is None:
        draft.note("lost", f"{where}: {clip(name)}", "this translation does not know the option")
    elif OPTIONS[option].takes != "nothing":
        yield from (option, value)
    elif value.lower() in _ON:
        yield option
    elif value.lower() in _OFF and f"--no-{name}" in OPTIONS:
        yield f"--no-{name}"
    elif value.lower() in _OFF:
        draft.note("needless", f"{where}: {clip(name)}", "it is off")
    else:
        draft.note("lost", f"{where}: {clip(name)}", "its value is neither on nor off")
