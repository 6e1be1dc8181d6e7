"""Makes a configuration of the files and command lines of other servers. Pure: reads no file and no environment.

    command_line    the command in a text
    draft           what a translation has found so far, and how the findings of several models become one file
    of_llamacpp     settings of llama.cpp that several servers pass on
    llama_server    the options of llama.cpp's `llama-server`
    presets         the INI file with presets of `llama-server`
    modelfile       Ollama's Modelfile
    ollama_settings the variables of Ollama's server
    llama_swap      the YAML file of llama-swap

Whatever a file asks for is in the configuration or in a note of it. No value of a key or a token is in either.
"""

from neuron_service.migration.command_line import Command, read_command
from neuron_service.migration.draft import Draft, Note, NoteKind, Translation
from neuron_service.migration.llama_server import translate_command
from neuron_service.migration.llama_swap import translate_llama_swap
from neuron_service.migration.modelfile import translate_modelfile
from neuron_service.migration.ollama_settings import is_ollama_settings, translate_ollama_settings
from neuron_service.migration.presets import is_presets, translate_presets

__all__ = (
    "Command",
    "Draft",
    "Note",
    "NoteKind",
    "Translation",
    "is_ollama_settings",
    "is_presets",
    "read_command",
    "translate_command",
    "translate_llama_swap",
    "translate_modelfile",
    "translate_ollama_settings",
    "translate_presets",
)
