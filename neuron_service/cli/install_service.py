"""`neuron install-service`: puts neuron in place as a service of systemd, and undoes that.

`service_files` decides. Everything that can be refused is refused before the first file is written.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from neuron_service.cli.service_files import (
    Act,
    Layout,
    ServiceFile,
    act_of_installing,
    act_of_undoing,
    hidden_by_the_unit,
    system_layout,
    user_layout,
)
from neuron_service.cli.service_packages import missing_packages
from neuron_service.cli.terminal import complain

__all__ = ("InstallOptions", "install_service")

_HERE: Final = Path("/")
_PACKAGED_UNIT: Final = Path("/usr/lib/systemd/system/neuron.service")
_COMMAND_LIMIT_S: Final = 150
"""For one command of systemd. Stopping the service takes up to 120 s."""


@dataclass(slots=True, frozen=True, kw_only=True)
class InstallOptions:
    """What was asked for.

    `root` is the top folder of the host: an image that is being built, or "/". `program` is the path of `neuron` on
    that host; None is the program that runs.
    """

    is_user: bool = False
    starts: bool = False
    only_shows: bool = False
    undoes: bool = False
    root: Path = _HERE
    program: Path | None = None


class _Refused(Exception):
    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


def install_service(options: InstallOptions) -> int:
    """Do it, and print each step. Returns the exit status."""
    program = options.program or Path(sysconfig.get_path("scripts"), "neuron")
    layout = _layout(options, program)
    try:
        if options.undoes:
            _undo(options, layout)
        else:
            _refuse_what_cannot_work(options, program)
            _install(options, layout)
    except _Refused as refused:
        complain(str(refused))
        return refused.status
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}; what was done is listed above, and the command can be run again")
        return os.EX_NOPERM if isinstance(error, PermissionError) else os.EX_CANTCREAT
    return 0


def _layout(options: InstallOptions, program: Path) -> Layout:
    if options.is_user:
        return user_layout(program, Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"))
    return system_layout(program, options.root)


# --------------------------------------------------------------------------------------------------- refusals


def _refuse_what_cannot_work(options: InstallOptions, program: Path) -> None:
    if missing := missing_packages():
        raise _Refused(
            os.EX_UNAVAILABLE,
            f"the service needs the Python packages {', '.join(missing)}; install them: {sys.executable} -m pip "
            "install 'neuron-node[service]'",
        )
    if options.starts and not _talks_to_systemd(options):
        raise _Refused(os.EX_UNAVAILABLE, "systemd does not run there, so the service cannot start; leave --now out")
    if not options.is_user:
        _refuse_without_rights(options)
    if options.root != _HERE or options.is_user:
        return
    if _PACKAGED_UNIT.exists():
        raise _Refused(
            os.EX_CANTCREAT,
            f"a package has put the service in place already ({_PACKAGED_UNIT}); start it: systemctl enable --now "
            "neuron",
        )
    if options.program is None and not program.exists():
        raise _Refused(os.EX_UNAVAILABLE, f"there is no {program}; name the program: --program PATH")
    _refuse_a_program_that_the_service_cannot_reach(program)


def _refuse_without_rights(options: InstallOptions) -> None:
    if options.root == _HERE and os.geteuid() != 0 and not options.only_shows:
        raise _Refused(
            os.EX_NOPERM,
            "a service of the host is put in place by root (sudo neuron install-service); `neuron install-service "
            "--user` makes a service of your own",
        )
    for tool in ("systemd-sysusers", "systemd-tmpfiles"):
        if shutil.which(tool) is None:
            raise _Refused(os.EX_UNAVAILABLE, f"{tool} is not installed; `neuron install-service` needs systemd")


def _refuse_a_program_that_the_service_cannot_reach(program: Path) -> None:
    interpreter = Path(sys.executable)
    paths = [each for path in (program, interpreter) for each in (path, path.resolve())]
    advice = (
        "install neuron elsewhere: python3 -m venv /opt/neuron && /opt/neuron/bin/pip install 'neuron-node[service]' "
        "&& /opt/neuron/bin/neuron install-service"
    )
    if hidden := hidden_by_the_unit(paths):
        path, line = hidden
        raise _Refused(os.EX_NOPERM, f"the service cannot see {path}, because its unit says {line}; {advice}")
    for path in paths:
        for folder in path.parents:
            if not folder.stat().st_mode & 0o001:
                raise _Refused(os.EX_NOPERM, f"the user neuron may not enter {folder}; {advice}")


# ----------------------------------------------------------------------------------------------------- actions


def _install(options: InstallOptions, layout: Layout) -> None:
    acts = _decide(layout, act_of_installing)
    for file, act in acts:
        if act is Act.REFUSE:
            raise _Refused(
                os.EX_CANTCREAT,
                f"{file.path} is there and was not written by `neuron install-service`, or was changed since; move "
                f"your changes to a drop-in ({_edit(options)}) and delete the file",
            )
    for file, act in acts:
        print(f"{act.value}  {file.path}{' (it was there)' if act is Act.KEEP else ''}")
        if act in {Act.WRITE, Act.REPLACE} and not options.only_shows:
            _write(file)
    commands = [*layout.prepare]
    if _talks_to_systemd(options):
        commands.append(layout.reload)
    if options.starts:
        commands.append(layout.enable)
    for command in commands:
        _run(command, only_shows=options.only_shows)
    _print_next_steps(options, layout)


def _undo(options: InstallOptions, layout: Layout) -> None:
    if not options.is_user:
        _refuse_without_rights(options)
    acts = [(file, act) for file, act in _decide(layout, act_of_undoing) if act is not Act.NOTHING]
    talks = _talks_to_systemd(options)
    if talks and any(act is Act.DELETE and file.path.suffix == ".service" for file, act in acts):
        _run(layout.disable, only_shows=options.only_shows)
    for file, act in acts:
        print(f"{act.value}  {file.path}{' (it was changed)' if act is Act.LEAVE else ''}")
        if act is Act.DELETE and not options.only_shows:
            file.path.unlink()
            if file.is_configuration:
                _remove_if_empty(file.path.parent)
    if talks:
        _run(layout.reload, only_shows=options.only_shows)
    if not acts:
        print("nothing of `neuron install-service` is here")
    elif not options.is_user:
        print("The user neuron, /var/lib/neuron and /var/cache/neuron stay. To delete them as well:")
        print("  userdel neuron; rm -r /var/lib/neuron /var/cache/neuron")


def _decide(layout: Layout, act: Callable[[ServiceFile, str | None], Act]) -> Sequence[tuple[ServiceFile, Act]]:
    return [(file, act(file, _content(file.path))) for file in layout.files]


def _content(path: Path) -> str | None:
    """What is at a path, None if there is nothing. A link to nothing counts as an empty file, which somebody made."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return "" if path.is_symlink() else None


def _write(file: ServiceFile) -> None:
    """Replace the file as a whole, so that no reader sees a part of it."""
    file.path.parent.mkdir(parents=True, exist_ok=True)
    partial = file.path.with_name(f".{file.path.name}.new")
    try:
        partial.write_text(file.content, encoding="utf-8")
        partial.chmod(file.mode)
        partial.replace(file.path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()


def _run(command: Sequence[str], *, only_shows: bool) -> None:
    text = " ".join(command)
    print(f"runs  {text}", flush=True)
    if only_shows:
        return
    try:
        subprocess.run(command, check=True, timeout=_COMMAND_LIMIT_S, stdin=subprocess.DEVNULL)  # noqa: S603 - fixed words
    except (OSError, subprocess.SubprocessError) as error:
        reason = f"status {error.returncode}" if isinstance(error, subprocess.CalledProcessError) else str(error)
        raise _Refused(
            os.EX_OSERR, f"`{text}` failed ({reason}); the steps before it are done, so repair it and run this again"
        ) from error


def _talks_to_systemd(options: InstallOptions) -> bool:
    """Whether the systemd that will run the service can be asked now."""
    if options.is_user:
        return Path(os.environ.get("XDG_RUNTIME_DIR", "/nonexistent"), "systemd").is_dir()
    return options.root == _HERE and Path("/run/systemd/system").is_dir()


def _print_next_steps(options: InstallOptions, layout: Layout) -> None:
    configuration = next(file.path for file in layout.files if file.is_configuration)
    if options.only_shows:
        print("Nothing was changed, because of --dry-run.")
        return
    steps = [f"  name your models in {configuration}"]
    if not options.starts:
        steps.append(f"  {' '.join(layout.enable)}")
    if options.is_user:
        steps.append("  loginctl enable-linger    # the service runs while you are logged out, too")
    print("Next:", *steps, sep="\n")


def _edit(options: InstallOptions) -> str:
    return "systemctl --user edit neuron" if options.is_user else "systemctl edit neuron"
