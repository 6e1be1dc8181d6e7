"""Whether the program of a harness is on this host. Looks at the disk, and starts nothing."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from neuron_lib.errors import LoadFailed
from neuron_lib.process.entry import ProcessEntry
from neuron_lib.process.placeholders import names_in
from neuron_lib.process.program import Program

__all__ = ("require_program",)


def require_program(entry: ProcessEntry, environ: Mapping[str, str]) -> None:
    """Raises `LoadFailed` for a harness whose program is missing, or the Python modules that it is made of.

    `environ` has the `PATH` in which the program is looked for, if the entry gives it none.
    """
    program = Program.of(entry)
    command = entry.command or program.preset.command
    name = command[0]
    if names_in([name]):
        return  # each model has a program of its own
    path = entry.env.get("PATH", environ.get("PATH", os.defpath))
    if not _is_program(name, path=path, directory=entry.directory):
        places = "" if "/" in name else f" in the PATH {path!r}"
        raise LoadFailed(f"there is no program {name}{places}: install it, or say where it is in `command`")
    if entry.command or name != sys.executable:
        return
    missing = [module for module in program.preset.modules if importlib.util.find_spec(module) is None]
    if missing:
        raise LoadFailed(
            f"the preset {entry.preset} needs the Python packages of {', '.join(missing)} beside this service: install "
            f"{program.preset.packages}, or put the Python that has them into `command`"
        )


def _is_program(name: str, *, path: str, directory: Path | str | None) -> bool:
    if "/" not in name:
        return shutil.which(name, path=path) is not None
    place = Path(name) if directory is None else Path(directory, name)
    return place.is_file() and os.access(place, os.X_OK)
