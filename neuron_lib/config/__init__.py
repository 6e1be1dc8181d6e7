"""What an operator can set, and how a TOML file and the environment become one checked `Config`.

schema       the structs, their defaults and bounds
values       the types of single values
llamacpp     the table of the llama.cpp backend
load         reads the file and the environment, and knows which of them gave a value
words        turns errors into sentences for an operator
variables    finds variables that look like mistyped keys
"""

from neuron_lib.config.llamacpp import LlamaCppConfig
from neuron_lib.config.load import Section, file_struct, hub_endpoint, load_config, load_config_with_origins
from neuron_lib.config.schema import (
    AdmissionConfig,
    Config,
    ContextLimitConfig,
    DownloadConfig,
    HarnessEntry,
    HttpConfig,
    ModelEntry,
    PromptCacheConfig,
    ResidencyConfig,
    SamplingConfig,
    SourceConfig,
    StoreSettings,
    TracingConfig,
    schemes_of,
    store_settings,
)
from neuron_lib.config.values import Revision, unix_path

__all__ = (
    "AdmissionConfig",
    "Config",
    "ContextLimitConfig",
    "DownloadConfig",
    "HarnessEntry",
    "HttpConfig",
    "LlamaCppConfig",
    "ModelEntry",
    "PromptCacheConfig",
    "ResidencyConfig",
    "Revision",
    "SamplingConfig",
    "Section",
    "SourceConfig",
    "StoreSettings",
    "TracingConfig",
    "file_struct",
    "hub_endpoint",
    "load_config",
    "load_config_with_origins",
    "schemes_of",
    "store_settings",
    "unix_path",
)
