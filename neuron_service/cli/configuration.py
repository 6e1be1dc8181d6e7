"""The configuration that a command runs with: from the file, the environment and the command line.

Its imports are few, because people wait for commands. `service_settings` reads what only the service needs.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from neuron_lib.config import Config, load_config, store_settings
from neuron_lib.errors import ConfigError
from neuron_lib.remote.backend import REMOTE
from neuron_service.backends import BACKENDS
from neuron_service.cli.options import LOG_LEVELS, ConfigOptions
from neuron_service.log_config import configure_logging

__all__ = (
    "DEFAULT_CONFIG",
    "command_config",
    "config_path",
    "for_this_machine",
    "log_level",
    "with_credentials",
)

DEFAULT_CONFIG: Final = Path("neuron.toml")
"""The file that is read where the command line names none."""


def command_config(options: ConfigOptions, environ: Mapping[str, str]) -> tuple[Config, Mapping[str, str]]:
    """The configuration of a command about models, and its environment. Logs from then on as the options say.

    A command takes the configuration of the service without the options of `serve`. Raises `ConfigError`.
    """
    configure_logging(log_level(options, environ, default="warning"), environ=environ)
    config = load_config(config_path(options), for_this_machine(environ), sections=BACKENDS)
    return config, with_credentials(config, environ)


def for_this_machine(environ: Mapping[str, str]) -> Mapping[str, str]:
    """`environ` without a `NEURON_HOST` that names a service elsewhere, by a URL or with a port, or is empty.

    The variable is `host` of the configuration and also where client commands find a service. A command about the
    files of this machine has no use for the address of another one.
    """
    host = environ.get("NEURON_HOST", "").strip()
    if host and "://" not in host and not re.search(r"(?<=[^:]):[0-9]+$", host):
        return environ
    return {name: value for name, value in environ.items() if name != "NEURON_HOST"}


def config_path(options: ConfigOptions) -> Path | None:
    """The file that the command line names, else the default one if it is there."""
    return DEFAULT_CONFIG if options.config is None and DEFAULT_CONFIG.exists() else options.config


def log_level(options: ConfigOptions, environ: Mapping[str, str], *, default: str = "info") -> str:
    """What the command line says, else `NEURON_LOG` in `environ`. Raises `ConfigError` for a level that is none."""
    level = options.log_level or environ.get("NEURON_LOG", default).lower()
    if level not in LOG_LEVELS:
        raise ConfigError(f"NEURON_LOG: {level!r} is none of {', '.join(LOG_LEVELS)}", variable="NEURON_LOG")
    return level


def with_credentials(config: Config, environ: Mapping[str, str]) -> Mapping[str, str]:
    """`environ` with the tokens of sources and the keys of remote harnesses that systemd passed as credentials, where
    `environ` itself lacks them.

    A credential has the name of the variable in small letters: `hf_token` becomes `HF_TOKEN`. Raises `ConfigError` for
    a credential that cannot be read.
    """
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        return environ
    sources = [source for store in store_settings(config).values() for source in store.sources.values()]
    keys = (entry.api_key_env for entry in REMOTE.entries(config) if entry.api_key_env)
    wanted = {"HF_TOKEN", *keys, *(source.auth_env for source in sources if source.auth_env)}
    lacking = {name for name in wanted if not environ.get(name, "").strip()}
    tokens = {name: _credential(Path(folder, name.lower())) for name in lacking}
    return {**environ, **{name: token for name, token in tokens.items() if token is not None}}


def _credential(path: Path) -> str | None:
    """The text of a file without white space around it. None if there is no such file. No error shows the text."""
    try:
        return path.read_text("utf-8").strip()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"credential {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ConfigError(f"credential {path}: not UTF-8") from None
