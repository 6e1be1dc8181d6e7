"""Which commands there are, where each is declared, and one line about each. Imports none of them."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, NamedTuple

__all__ = ("COMMANDS", "CONFIG_COMMANDS", "KEY_COMMANDS", "NAMES_ELSEWHERE", "SECTIONS", "Entry")


class Entry(NamedTuple):
    """A command: the place of its declaration as `module:name`, and its line in the list of commands."""

    place: str
    text: str


_HOME: Final = "neuron_service.cli.commands"

SECTIONS: Final[Mapping[str, Mapping[str, Entry]]] = MappingProxyType(
    {
        "Serve": {
            "serve": Entry(
                f"{_HOME}.serve:serve", "Serve models until SIGTERM or SIGINT. `neuron` alone does the same"
            ),
        },
        "Talk": {
            "run": Entry(f"{_HOME}.run:run", "Ask a model one thing, or talk to it"),
            "chat": Entry(f"{_HOME}.chat:chat", "Talk to a model"),
            "batch": Entry(f"{_HOME}.batch:batch", "Answer the requests of a file"),
            "bench": Entry(f"{_HOME}.bench:bench", "Measure how fast a model replies"),
        },
        "A running service": {
            "ps": Entry(f"{_HOME}.ps:ps", "Show the models of a running service"),
            "load": Entry(f"{_HOME}.load:load", "Load a model into a running service"),
            "unload": Entry(f"{_HOME}.unload:unload", "Unload a model of a running service"),
            "events": Entry(f"{_HOME}.events:events", "Follow what happens on a host"),
            "logs": Entry(f"{_HOME}.logs:logs", "Show the log of a service that systemd runs"),
            "stop": Entry(f"{_HOME}.stop:stop", "Stop the service on this machine"),
        },
        "Models on this disk": {
            "pull": Entry(f"{_HOME}.pull:pull", "Fetch models, or the newest commit of them, into the cache"),
            "ls": Entry(f"{_HOME}.ls:ls", "List the models in the cache"),
            "rm": Entry(f"{_HOME}.rm:rm", "Delete a model from the cache"),
            "show": Entry(f"{_HOME}.show:show", "Show what is known about a model"),
            "estimate": Entry(f"{_HOME}.estimate:estimate", "Say how much memory a model would take"),
        },
        "Set up and look after": {
            "config": Entry(f"{_HOME}.config:config", "Work with the configuration file"),
            "key": Entry(f"{_HOME}.key:key", "Make, list and delete API keys"),
            "doctor": Entry(f"{_HOME}.doctor:doctor", "Check whether this host can serve"),
            "completion": Entry(f"{_HOME}.completion:completion", "Print the completion script for a shell"),
            "install-service": Entry(
                f"{_HOME}.install_service:install_service", "Make neuron a service of systemd, or undo that"
            ),
            "version": Entry(f"{_HOME}.version:version", "Show the version"),
            "help": Entry(f"{_HOME}.help:show_help", "Show the list of commands, or the help of one command"),
        },
    }
)
"""The commands of `neuron`, in the order in which its help lists them."""

COMMANDS: Final[Mapping[str, Entry]] = MappingProxyType(
    {name: entry for section in SECTIONS.values() for name, entry in section.items()}
)

KEY_COMMANDS: Final[Mapping[str, Entry]] = MappingProxyType(
    {
        "new": Entry(f"{_HOME}.key:new", "Make an API key and print it, once"),
        "ls": Entry(f"{_HOME}.key:ls", "List the names and scopes of all keys"),
        "rm": Entry(f"{_HOME}.key:rm", "Delete a key"),
    }
)
"""The commands of `neuron key`."""

CONFIG_COMMANDS: Final[Mapping[str, Entry]] = MappingProxyType(
    {
        "check": Entry(f"{_HOME}.config:check", "Say whether the configuration can work on this host"),
        "show": Entry(f"{_HOME}.config:show", "Print the configuration that counts, and where each value came from"),
        "schema": Entry(f"{_HOME}.config:schema", "Print a JSON Schema of the file, for editors"),
        "init": Entry(f"{_HOME}.config:init", "Write a first configuration file"),
        "import": Entry(f"{_HOME}.import_config:import_config", "Make a configuration of the files of another server"),
    }
)
"""The commands of `neuron config`."""

NAMES_ELSEWHERE: Final[Mapping[str, str]] = MappingProxyType(
    {
        **dict.fromkeys(("start", "up", "server"), "serve"),
        **dict.fromkeys(("download", "fetch", "get", "install"), "pull"),
        **dict.fromkeys(("list", "models", "cache"), "ls"),
        **dict.fromkeys(("remove", "delete", "uninstall"), "rm"),
        **dict.fromkeys(("apikey", "api-key", "token", "keys"), "key"),
        **dict.fromkeys(("check", "diagnose", "diag", "status"), "doctor"),
        **dict.fromkeys(("configuration", "settings"), "config"),
    }
)
"""Names of the same commands in other programs."""
