"""Serve local language models, one engine process per model, from any anyio program.

`__version__` is the version of the distribution `neuron-node`. Where things are:

    registry     Registry: load, unload, list, run, chat; ActivationTracker and load_default_models: start-up loading
    harness      Harness, LoadedModel, Reply: what a backend has to be
    llamacpp     LlamaCppHarness: the backend (import it from there; it is not loaded with this package)
    types        frozen structs: ModelSpec, Chat and other tasks, events, snapshots
    errors       everything that can go wrong, by what to do about it
    testing      ScriptedHarness: a backend that follows a script

Importing this package loads neither llama_cpp, huggingface_hub nor any web framework. Its names are imported when
they are first used: an engine process, or `neuron ls`, loads only the submodules that it needs.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from neuron_lib.errors import (
        AlreadyLoaded,
        EngineDead,
        LoadFailed,
        ModelLoading,
        ModelNotLoaded,
        NeuronError,
        Overloaded,
        PromptTooLong,
        RequestRejected,
        ShuttingDown,
        SourceUnavailable,
        SuspectRequest,
        UnloadFailed,
    )
    from neuron_lib.harness import Generation, Harness, LoadedModel, MeasuredModel, Reply
    from neuron_lib.registry.event_log import HostEvents
    from neuron_lib.registry.registry import Registry
    from neuron_lib.registry.startup import ActivationTracker, load_default_models
    from neuron_lib.types import (
        ActivationSnapshot,
        ActivationState,
        Chat,
        ChatRequest,
        Complete,
        DeferredLoad,
        Detokenize,
        Detokenized,
        Embed,
        Embedding,
        EndedLoad,
        EndedReply,
        EngineMeasures,
        FailedLoad,
        Finished,
        FinishReason,
        GapEvent,
        GenerationEvent,
        Grammar,
        HostEvent,
        HostState,
        HostStateEvent,
        LoadingModel,
        LoadOutcome,
        LoadProgress,
        LoadStage,
        MemoryPlan,
        ModelEvent,
        ModelInfo,
        ModelLimit,
        ModelLoad,
        ModelPhase,
        ModelSpec,
        ModelStatus,
        Principal,
        ProgressEvent,
        ReasoningDelta,
        RejectionEvent,
        Relevance,
        ReloadEvent,
        ReplyEvent,
        ReplyOutcome,
        Rerank,
        ResidencyCounts,
        RestartEvent,
        SamplingParams,
        Started,
        Task,
        TextDelta,
        Tokenize,
        Tokenized,
        ToolCall,
        ToolChoice,
        UnloadingModel,
        Usage,
    )

__version__ = "0.1.0.dev0"
"""The version of the distribution `neuron-node`, which the packaging reads from here."""

__all__ = (
    "ActivationSnapshot",
    "ActivationState",
    "ActivationTracker",
    "AlreadyLoaded",
    "Chat",
    "ChatRequest",
    "Complete",
    "DeferredLoad",
    "Detokenize",
    "Detokenized",
    "Embed",
    "Embedding",
    "EndedLoad",
    "EndedReply",
    "EngineDead",
    "EngineMeasures",
    "FailedLoad",
    "FinishReason",
    "Finished",
    "GapEvent",
    "Generation",
    "GenerationEvent",
    "Grammar",
    "Harness",
    "HostEvent",
    "HostEvents",
    "HostState",
    "HostStateEvent",
    "LoadFailed",
    "LoadOutcome",
    "LoadProgress",
    "LoadStage",
    "LoadedModel",
    "LoadingModel",
    "MeasuredModel",
    "MemoryPlan",
    "ModelEvent",
    "ModelInfo",
    "ModelLimit",
    "ModelLoad",
    "ModelLoading",
    "ModelNotLoaded",
    "ModelPhase",
    "ModelSpec",
    "ModelStatus",
    "NeuronError",
    "Overloaded",
    "Principal",
    "ProgressEvent",
    "PromptTooLong",
    "ReasoningDelta",
    "Registry",
    "RejectionEvent",
    "Relevance",
    "ReloadEvent",
    "Reply",
    "ReplyEvent",
    "ReplyOutcome",
    "RequestRejected",
    "Rerank",
    "ResidencyCounts",
    "RestartEvent",
    "SamplingParams",
    "ShuttingDown",
    "SourceUnavailable",
    "Started",
    "SuspectRequest",
    "Task",
    "TextDelta",
    "Tokenize",
    "Tokenized",
    "ToolCall",
    "ToolChoice",
    "UnloadFailed",
    "UnloadingModel",
    "Usage",
    "load_default_models",
)

_HOMES: Final = ("types", "errors", "harness", "registry.event_log", "registry.startup", "registry.registry")
"""The modules that the names above come from. Those that import least come first."""


def __getattr__(name: str) -> Any:
    """Import a name of `__all__` when it is first used."""
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"neuron_lib.{home}")
            if name in module.__all__:
                value = globals()[name] = getattr(module, name)
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=sys.modules[__name__])


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
