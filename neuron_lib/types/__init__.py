"""Frozen structs shared by every layer. They hold data and nothing else."""

from neuron_lib.types.chat import ChatRequest, Grammar, Principal
from neuron_lib.types.content import MEDIA_OF_PARTS, Medium, first_medium
from neuron_lib.types.context import ContextParams
from neuron_lib.types.ended_reply import EndedReply, ReplyOutcome
from neuron_lib.types.events import (
    Finished,
    FinishReason,
    GenerationEvent,
    Likely,
    ReasoningDelta,
    Started,
    TextDelta,
    TokenLogprob,
    ToolCall,
    Usage,
)
from neuron_lib.types.host import (
    ActivationSnapshot,
    ActivationState,
    DeferredLoad,
    Device,
    DeviceHealth,
    Discovery,
    Health,
)
from neuron_lib.types.model_ids import HUB_SCHEME, IdParts, is_same_quant, names_model, public_id, take_apart
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
    UnloadingModel,
)
from neuron_lib.types.sampling import CommonSampling, Sampling, SamplingParams
from neuron_lib.types.unread import UnreadArray, UnreadObject

__all__ = (
    "HUB_SCHEME",
    "MEDIA_OF_PARTS",
    "ActivationSnapshot",
    "ActivationState",
    "ChatRequest",
    "CommonSampling",
    "ContextParams",
    "DeferredLoad",
    "Device",
    "DeviceHealth",
    "Discovery",
    "EndedReply",
    "FailedLoad",
    "FinishReason",
    "Finished",
    "GenerationEvent",
    "Grammar",
    "Health",
    "IdParts",
    "Likely",
    "LoadProgress",
    "LoadStage",
    "LoadingModel",
    "Medium",
    "ModelInfo",
    "ModelLimit",
    "ModelLoad",
    "ModelSpec",
    "ModelStatus",
    "Principal",
    "ReasoningDelta",
    "ReplyOutcome",
    "Sampling",
    "SamplingParams",
    "Servable",
    "Started",
    "TextDelta",
    "TokenLogprob",
    "ToolCall",
    "UnloadingModel",
    "UnreadArray",
    "UnreadObject",
    "Usage",
    "first_medium",
    "is_same_quant",
    "names_model",
    "public_id",
    "take_apart",
)
