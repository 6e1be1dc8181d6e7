"""Which files make neuron a service of systemd, what is in them, and what becomes of a file that is there already.

Decides alone: reads and writes nothing but the templates in this package. `install_service` acts.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from importlib.resources import files
from pathlib import Path
from typing import Final

from msgspec import Struct

__all__ = (
    "Act",
    "Layout",
    "ServiceFile",
    "act_of_installing",
    "act_of_undoing",
    "hidden_by_the_unit",
    "system_layout",
    "user_layout",
)

_TEMPLATES: Final = files("neuron_service") / "host_files"
_PROGRAM: Final = "/usr/bin/neuron"
"""How the units name the program."""
_NOTE: Final = (
    "# Written by `neuron install-service`, which replaces this file while it is as it was written ({digest}).\n"
)
_NOTE_PATTERN: Final = re.compile(re.escape(_NOTE).replace(re.escape("{digest}"), "([0-9a-f]{16})"))
_HIDDEN: Final[Mapping[str, str]] = {
    **dict.fromkeys(("/home", "/root", "/run/user"), "ProtectHome=yes"),
    **dict.fromkeys(("/tmp", "/var/tmp"), "PrivateTmp=yes"),  # noqa: S108 - nothing is written there
}
"""Folders that a unit does not see, and the line of neuron.service that says so."""


class ServiceFile(Struct, frozen=True, kw_only=True):
    """A file that is to be put in place. A configuration belongs to the operator, so one that is there stays."""

    path: Path
    content: str
    mode: int
    is_configuration: bool = False


class Layout(Struct, frozen=True, kw_only=True):
    """A whole service: its files, and the commands that make systemd know it, start it and forget it.

    `enable`, `disable` and `reload` talk to a running systemd. `prepare` does not.
    """

    files: tuple[ServiceFile, ...]
    prepare: tuple[tuple[str, ...], ...]
    reload: tuple[str, ...]
    enable: tuple[str, ...]
    disable: tuple[str, ...]


class Act(Enum):
    """What becomes of a file."""

    WRITE = "writes"
    REPLACE = "replaces"
    KEEP = "keeps"
    REFUSE = "refuses"
    DELETE = "deletes"
    LEAVE = "leaves"
    NOTHING = "nothing"


def system_layout(program: Path, root: Path = Path("/")) -> Layout:
    """The service of a host, below `root`. `program` is the path of the command `neuron` on that host."""
    etc = root / "etc"
    inside = () if root == Path("/") else (f"--root={root}",)
    return Layout(
        files=(
            _noted(etc / "systemd/system/neuron.service", "neuron.service", program),
            _noted(etc / "systemd/system/neuron.socket", "neuron.socket", program),
            _noted(etc / "sysusers.d/neuron.conf", "neuron.sysusers", program),
            _noted(etc / "tmpfiles.d/neuron.conf", "neuron.tmpfiles", program),
            _configuration(etc / "neuron/neuron.toml", 0o640),
        ),
        prepare=(
            ("systemd-sysusers", *inside, "neuron.conf"),
            ("systemd-tmpfiles", *inside, "--create", "neuron.conf"),
        ),
        reload=("systemctl", "daemon-reload"),
        enable=("systemctl", "enable", "--now", "neuron.service"),
        disable=("systemctl", "disable", "--now", "neuron.socket", "neuron.service"),
    )


def user_layout(program: Path, config_home: Path) -> Layout:
    """The service of one person. `config_home` is the folder of their configurations, usually ~/.config."""
    return Layout(
        files=(
            _noted(config_home / "systemd/user/neuron.service", "neuron-user.service", program),
            _configuration(config_home / "neuron/neuron.toml", 0o600),
        ),
        prepare=(),
        reload=("systemctl", "--user", "daemon-reload"),
        enable=("systemctl", "--user", "enable", "--now", "neuron.service"),
        disable=("systemctl", "--user", "disable", "--now", "neuron.service"),
    )


def act_of_installing(file: ServiceFile, found: str | None) -> Act:
    """What an installation does with a file whose content is `found`; None if there is none."""
    if found is None:
        return Act.WRITE
    if file.is_configuration or found == file.content:
        return Act.KEEP
    return Act.REPLACE if _is_as_written(found) else Act.REFUSE


def act_of_undoing(file: ServiceFile, found: str | None) -> Act:
    """What undoing does with it: only what nobody has changed is deleted."""
    if found is None:
        return Act.NOTHING
    return Act.DELETE if found == file.content or _is_as_written(found) else Act.LEAVE


def hidden_by_the_unit(paths: Sequence[Path]) -> tuple[Path, str] | None:
    """The first path that neuron.service cannot see, and the line of the unit that hides it."""
    for path in paths:
        for folder, line in _HIDDEN.items():
            if path.is_relative_to(folder):
                return path, line
    return None


def _noted(path: Path, template: str, program: Path) -> ServiceFile:
    """A file from a template, with the real path of the program, below a note by which it is known again."""
    text = _text(template).replace(f"={_PROGRAM} ", f"={_quoted(program)} ")
    return ServiceFile(path=path, content=_NOTE.format(digest=_digest(text)) + text, mode=0o644)


def _configuration(path: Path, mode: int) -> ServiceFile:
    return ServiceFile(path=path, content=_text("neuron.example.toml"), mode=mode, is_configuration=True)


def _text(template: str) -> str:
    return (_TEMPLATES / template).read_text(encoding="utf-8")


def _is_as_written(found: str) -> bool:
    """Whether some version of this module wrote the file and nobody has changed it since."""
    note = _NOTE_PATTERN.match(found)
    return note is not None and note[1] == _digest(found[note.end() :])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _quoted(program: Path) -> str:
    """The path as systemd reads it in ExecStart=."""
    text = str(program).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return text if re.fullmatch(r"[\w./+@%:~-]+", text) else f'"{text}"'
