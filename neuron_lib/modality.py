"""What a GGUF file can be used for, by its metadata. Pure. The names of files and models are not looked at.

The architectures are those that libllama knows (`src/llama-arch.cpp` of llama.cpp), and those of image models in GGUF
(`IMG_ARCH_LIST` of ComfyUI-GGUF). libllama itself refuses any other architecture.
"""

from collections.abc import Mapping
from typing import Final

from neuron_lib.errors import UnsupportedCapability, WrongModality
from neuron_lib.types import Detokenize, Embed, Rerank, Task, Tokenize

__all__ = ("CHAT", "EMBEDDINGS", "RERANK", "capabilities_of", "require_able", "why_not_servable")

CHAT: Final = "text"
"""The model writes text: it answers chats and goes on with prompts. The gateway knows this capability as `text`."""
EMBEDDINGS: Final = "embeddings"
"""The model turns a text into a vector."""
RERANK: Final = "rerank"
"""The model scores how well a text answers a question."""

_ENCODERS: Final = frozenset(
    {"bert", "eurobert", "gemma-embedding", "jina-bert-v2", "jina-bert-v3", "llama-embed", "modern-bert", "neo-bert"}
    | {"nomic-bert", "nomic-bert-moe", "t5encoder"}
)
"""Architectures that cannot write text: each token depends on the whole text, also on the tokens behind it."""
_POOLING_NONE: Final = 0
_POOLING_RANK: Final = 4
"""Values of libllama's `enum llama_pooling_type`."""

_DIFFUSION: Final = (
    "it is a diffusion model, which fills in a whole text in several passes; this host only writes token by token"
)
_ENCODER_DECODER: Final = (
    "it is an encoder-decoder model, which needs a second kind of memory; this host serves models with a decoder only"
)
_DRAFT: Final = "it is a draft model, which guesses tokens for another model and does not work alone"
_SPEECH: Final = "it is a speech model, which makes codes of sound and no text"
_PROJECTOR: Final = (
    "it is the part of a multimodal model that reads images or sound (mmproj); load the file of the language model"
)
_IMAGES: Final = "it is a model that makes images or videos, and this host makes text"
_CONTROL_VECTOR: Final = "it is a control vector, which steers another model and is none itself"

_UNSERVABLE: Final[Mapping[str, str]] = {
    **dict.fromkeys(("aura", "cosmos", "flux", "hidream", "hyvid", "ltxv"), _IMAGES),
    **dict.fromkeys(("lumina2", "qwen_image", "sd1", "sd3", "sdxl", "wan"), _IMAGES),
    "clip": _PROJECTOR,
    "cogvlm": (
        # Its graph computes the scores of all tokens of a batch, but libllama expects only the wanted ones. So the
        # scores of the first token are taken for those of the last (`src/models/cogvlm.cpp`, llama.cpp 0c1e57098).
        "its architecture cogvlm is computed wrongly by libllama: the scores of a prompt are those of another token"
    ),
    "controlvector": _CONTROL_VECTOR,
    "dflash": _DRAFT,
    "dream": _DIFFUSION,
    "eagle3": _DRAFT,
    "gemma4-assistant": _DRAFT,
    "llada": _DIFFUSION,
    "llada-moe": _DIFFUSION,
    "pockettts": _SPEECH,
    "qwen3tts": _SPEECH,
    "rnd1": _DIFFUSION,
    "t5": _ENCODER_DECODER,
    "wavtokenizer-dec": "it is a vocoder, which turns codes into sound and neither reads nor writes text",
}
"""Architectures that nothing here can serve, with a sentence that says why."""


def why_not_servable(
    *, architecture: str | None, general_type: str | None = None, adapter_type: str | None = None
) -> str | None:
    """A sentence that says why a file with this metadata cannot be loaded as a model. None if it can be loaded.

    The arguments are the values of `general.architecture`, `general.type` (None also for "model") and `adapter.type`.
    """
    if general_type is None and adapter_type is not None:
        general_type = "adapter"
    match general_type:
        case "adapter":
            kind = "a LoRA adapter" if adapter_type in {None, "lora"} else f"an adapter of the type {adapter_type}"
            base = "another model" if architecture is None else f"a model of the architecture {architecture}"
            return f"it is {kind} for {base}, and no model itself; load a file with the adapter merged into the model"
        case "imatrix":
            return "it is an importance matrix, a note for whoever quantises a model, and has no weights"
        case "mmproj":
            return _PROJECTOR
        case None:
            return _UNSERVABLE.get(architecture or "")
        case other:
            return f"it is a file of the type {other!r} ('general.type'), and no model"


def capabilities_of(
    *, architecture: str | None, pooling_type: int | None = None, is_causal: bool | None = None
) -> tuple[str, ...]:
    """The capabilities of a model with this metadata.

    `pooling_type` and `is_causal` are the values of `<architecture>.pooling_type` and
    `<architecture>.attention.causal`. Only models that were trained to make one vector or one score of a whole text
    have a pooling type.
    """
    if pooling_type == _POOLING_RANK:
        return (RERANK,)
    makes_vectors = pooling_type not in {None, _POOLING_NONE} or is_causal is False
    return (EMBEDDINGS,) if makes_vectors or architecture in _ENCODERS else (CHAT,)


def require_able(task: Task, model_id: str, capabilities: tuple[str, ...]) -> None:
    """Raise for a task that a model with these capabilities cannot do; of a model that says nothing all is believed.

    `WrongModality` for a text from a model that writes none, `UnsupportedCapability` for vectors from one that makes
    none, and for scores or tokens from one that gives none. A model that writes text or makes vectors of text also
    tells its tokens.
    """
    able: tuple[str, ...]
    match task:
        case Embed():
            able, code, problem = (EMBEDDINGS,), "embeddings_unsupported", "makes no embeddings"
        case Rerank():
            able, code, problem = (RERANK,), "rerank_unsupported", "ranks no documents"
        case Detokenize() | Tokenize(prompt=str()):
            able, code, problem = (CHAT, EMBEDDINGS, RERANK), "tokenize_unsupported", "does not tell its tokens"
        case _:
            if capabilities and CHAT not in capabilities:
                raise WrongModality(model_id, capabilities)
            return
    if capabilities and not {*able} & {*capabilities}:
        raise UnsupportedCapability(
            f"model {model_id!r} {problem}",
            code=code,
            model_id=model_id,
            suggestion=f"choose a model whose capabilities include {' or '.join(able)}",
        )
