"""Frozen structs shared by every layer. They hold data and nothing else."""

from neuron_lib.types.chat import ChatRequest, Principal, SamplingParams
from neuron_lib.types.events import (
    Finished,
    FinishReason,
    GenerationEvent,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCall,
    Usage,
)
from neuron_lib.types.models import (
    FailedLoad,
    LoadingModel,
    LoadProgress,
    LoadStage,
    ModelInfo,
    ModelLimit,
    ModelLoad,
    ModelSpec,
    ModelStatus,
    Servable,
)
from neuron_lib.types.node import (
    ActivationSnapshot,
    ActivationState,
    Device,
    DeviceHealth,
    Discovery,
    Health,
)

__all__ = (
    "ActivationSnapshot",
    "ActivationState",
    "ChatRequest",
    "Device",
    "DeviceHealth",
    "Discovery",
    "FailedLoad",
    "FinishReason",
    "Finished",
    "GenerationEvent",
    "Health",
    "LoadProgress",
    "LoadStage",
    "LoadingModel",
    "ModelInfo",
    "ModelLimit",
    "ModelLoad",
    "ModelSpec",
    "ModelStatus",
    "Principal",
    "ReasoningDelta",
    "SamplingParams",
    "Servable",
    "Started",
    "TextDelta",
    "ToolCall",
    "Usage",
)
