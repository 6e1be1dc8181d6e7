"""Serve local language models, one engine process per model, from any anyio program.

Where things are:

    registry     Registry: load, unload, list, chat
    activation   ActivationTracker: how far start-up loading has come
    preload      load_default_models: the start-up loading itself
    llamacpp     LlamaCppHarness: the backend (import it from there; it is not loaded with this package)
    types        frozen structs: ModelSpec, ChatRequest, events, snapshots
    errors       everything that can go wrong, by what to do about it
    testing      ScriptedHarness: a backend that follows a script

Importing this package loads neither llama_cpp, huggingface_hub nor any web framework.
"""

from neuron_lib.activation import ActivationTracker
from neuron_lib.errors import (
    AlreadyLoaded,
    EngineDead,
    LoadFailed,
    ModelNotLoaded,
    NeuronError,
    RequestRejected,
    SourceUnavailable,
)
from neuron_lib.harness import Generation, Harness, LoadedModel
from neuron_lib.preload import load_default_models
from neuron_lib.registry import Registry
from neuron_lib.types import (
    ActivationSnapshot,
    ChatRequest,
    Finished,
    FinishReason,
    GenerationEvent,
    LoadProgress,
    LoadStage,
    ModelInfo,
    ModelSpec,
    ReasoningDelta,
    SamplingParams,
    Started,
    TextDelta,
    ToolCall,
    Usage,
)

__all__ = (
    "ActivationSnapshot",
    "ActivationTracker",
    "AlreadyLoaded",
    "ChatRequest",
    "EngineDead",
    "FinishReason",
    "Finished",
    "Generation",
    "GenerationEvent",
    "Harness",
    "LoadFailed",
    "LoadProgress",
    "LoadStage",
    "LoadedModel",
    "ModelInfo",
    "ModelNotLoaded",
    "ModelSpec",
    "NeuronError",
    "ReasoningDelta",
    "Registry",
    "RequestRejected",
    "SamplingParams",
    "SourceUnavailable",
    "Started",
    "TextDelta",
    "ToolCall",
    "Usage",
    "load_default_models",
)
