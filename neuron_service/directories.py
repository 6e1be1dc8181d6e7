"""The rule for directories in the configuration of a service."""

from neuron_lib.config import LlamaCppConfig
from neuron_lib.errors import ConfigError

__all__ = ("require_absolute_directories",)


def require_absolute_directories(config: LlamaCppConfig) -> None:
    """Raises `ConfigError` for a relative directory, whose meaning would depend on where the service is started."""
    directories = {
        "hf_cache": config.hf_cache,
        **{f"sources.{name}.cache_dir": source.cache_dir for name, source in config.sources.items()},
        **{f"local_roots[{index}]": root for index, root in enumerate(config.local_roots)},
    }
    for key, directory in directories.items():
        if directory is not None and not directory.is_absolute():
            place = f"harness.llamacpp.{key}"
            raise ConfigError(f"`{place}`: the relative path '{directory}' must be absolute", key=place)
