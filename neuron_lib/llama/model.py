"""A GGUF file loaded by libllama: its weights, its vocabulary and its metadata."""

import ctypes
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from neuron_lib.config import SamplingConfig
from neuron_lib.errors import LoadFailed
from neuron_lib.llama.bindings import lib, progress_callback
from neuron_lib.llama.devices import sees_gpu, wanted_handles
from neuron_lib.llama.vocab import Vocab
from neuron_lib.modality import CHAT, capabilities_of, why_not_servable
from neuron_lib.types import SamplingParams

__all__ = ("Model",)

logger: logging.Logger = logging.getLogger(__name__)

_LONGEST_METADATA = 1 << 20

_RECOMMENDATIONS: Final[Mapping[str, str]] = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "xtc_probability": "xtc_probability",
    "xtc_threshold": "xtc_threshold",
    "penalty_repeat": "repetition_penalty",
    "penalty_last_n": "repeat_last_n",
}
"""The keys below `general.sampling` that have a meaning here, and the names of the parameters."""


_ONE_SEQUENCE_A_BATCH: Final = frozenset(
    {
        # `build_plamo2_mamba_layer` exchanges tokens and sequences. This is visible if a batch has several of both
        # (`src/models/plamo2.cpp`, llama.cpp 0c1e57098).
        "plamo2"
    }
)
"""Architectures for which libllama computes a wrong result if a batch has tokens of several sequences."""


class Model:
    """Owns the native model. Use it as a context manager, and close every `Context` of the model first."""

    def __init__(
        self,
        path: Path,
        *,
        gpu_layers: int,
        on_progress: Callable[[float], bool],
        is_dry: bool = False,
        beside_gpus: bool = True,
    ) -> None:
        """Load `path`. Blocks until the model is loaded. A negative `gpu_layers` puts all layers on the GPU.

        The model is shared out among the devices of RPC servers, if `devices.use_rpc` has named some, and with
        `beside_gpus` also among the GPUs of this host.

        `on_progress(fraction)` is called often, with 0.0 to 1.0; it stops the load by returning False. With `is_dry`
        no weights are read and nothing is allocated for them (`neuron_lib.llama.dry_run`). The header and the
        vocabulary are read, so the model answers questions, but no context of it computes. Raises `LoadFailed`.
        """
        params = lib.llama_model_default_params()
        if is_dry:
            params.no_alloc, params.load_mode = True, lib.LLAMA_LOAD_MODE_NONE
        params.n_gpu_layers = gpu_layers
        handles = wanted_handles(beside_gpus=beside_gpus)
        if handles is not None:
            named = (ctypes.c_void_p * (len(handles) + 1))(*handles, None)  # libllama copies it during the load
            params.devices = ctypes.cast(named, ctypes.c_void_p)
        callback = progress_callback(on_progress)
        params.progress_callback = callback
        self._pointer: Any = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self._pointer:
            raise LoadFailed(f"llama.cpp could not load {path.name}", file=str(path))
        pre_tokenizer = self.metadata("tokenizer.ggml.pre") or ""
        self.vocab: Vocab = Vocab(lib.llama_model_get_vocab(self._pointer), pre_tokenizer=pre_tokenizer)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        lib.llama_model_free(self._pointer)
        self._pointer = None

    @property
    def pointer(self) -> Any:
        """The native handle, for `Context`."""
        return self._pointer

    @property
    def native_context(self) -> int:
        """The number of tokens that the model was trained for."""
        return int(lib.llama_model_n_ctx_train(self._pointer))

    @property
    def layers(self) -> int:
        """The number of layers."""
        return int(lib.llama_model_n_layer(self._pointer))

    @property
    def window(self) -> int:
        """How many tokens the layers see that do not see the whole text. 0 if all layers see the whole text."""
        return int(lib.llama_model_n_swa(self._pointer))

    @property
    def size_bytes(self) -> int:
        """The bytes of all tensors."""
        return int(lib.llama_model_size(self._pointer))

    @property
    def supports_gpu(self) -> bool:
        """Whether this llama.cpp was built for GPUs and sees one. A build for CPUs computes every layer on the CPU,
        silently.
        """
        return sees_gpu()

    @property
    def description(self) -> str:
        """Architecture, size and quantisation in llama.cpp's words, such as `llama 135M Q4_1`."""
        return self._text(lib.llama_model_desc) or "unknown"

    @property
    def architecture(self) -> str:
        """The name of the architecture, such as `llama`."""
        return self.metadata("general.architecture") or ""

    @property
    def refusal(self) -> str | None:
        """A sentence that says why the model cannot be served. None if it can."""
        if lib.llama_model_is_diffusion(self._pointer):
            return "it is a diffusion model, which does not write token by token"
        if self.can_chat and lib.llama_model_has_encoder(self._pointer):
            return "it has an encoder beside its decoder, and only models with a decoder alone are served"
        return why_not_servable(architecture=self.architecture)

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the model can do (see `neuron_lib.modality`)."""
        architecture = self.architecture
        pooling_type = self.metadata(f"{architecture}.pooling_type")
        causal = self.metadata(f"{architecture}.attention.causal")
        return capabilities_of(
            architecture=architecture,
            pooling_type=None if pooling_type is None else int(pooling_type),
            is_causal=None if causal is None else causal == "true",
        )

    @property
    def can_chat(self) -> bool:
        """Whether the model generates text from text."""
        return CHAT in self.capabilities

    @property
    def needs_batches_apart(self) -> bool:
        """Whether a batch may have tokens of one sequence only, because libllama would mix up several sequences."""
        return self.architecture in _ONE_SEQUENCE_A_BATCH

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the model's own chat template."""
        raw = lib.llama_model_chat_template(self._pointer, None)
        return raw.decode("utf-8", "replace") if raw else None

    @property
    def tool_chat_template(self) -> str | None:
        """The Jinja source for chats with tools, if the model has a template of its own for them."""
        raw = lib.llama_model_chat_template(self._pointer, b"tool_use")
        return raw.decode("utf-8", "replace") if raw else None

    @property
    def rerank_template(self) -> str | None:
        """The form of a prompt to rank a document by, with `{query}` and `{document}` in it, if the model has one."""
        raw = lib.llama_model_chat_template(self._pointer, b"rerank")
        return raw.decode("utf-8", "replace") if raw else None

    def metadata(self, key: str) -> str | None:
        """The metadata value of `key` as text, or None."""
        return self._text(lambda model, buffer, size: lib.llama_model_meta_val_str(model, key.encode(), buffer, size))

    def recommended_sampling(self) -> SamplingParams:
        """The sampling that the publisher recommends in the file's `general.sampling.*` keys.

        A recommendation that is out of the bounds of the configuration is ignored. One warning names all of them.
        """
        recommended: dict[str, Any] = {}
        ignored: list[str] = []
        for key, name in _RECOMMENDATIONS.items():
            text = self.metadata(f"general.sampling.{key}")
            if text is None:
                continue
            try:
                number = float(text)
                value = int(number) if number.is_integer() else number
                recommended[name] = getattr(msgspec.convert({name: value}, SamplingConfig), name)
            except (ValueError, msgspec.ValidationError):
                ignored.append(f"{key} = {text[:40]}")
        if ignored:
            logger.warning("impossible sampling parameters in the model's file, ignored: %s", ", ".join(ignored))
        return SamplingParams(**recommended)

    def _text(self, read: Callable[[Any, Any, int], int]) -> str | None:
        """Call a native function that fills a buffer and returns the length that it would have needed."""
        size = 256
        while size <= _LONGEST_METADATA:
            buffer = ctypes.create_string_buffer(size)
            needed = read(self._pointer, buffer, size)
            if needed < 0:
                return None
            if needed < size:
                return buffer.raw[:needed].decode("utf-8", "replace")
            size = needed + 1
        return None
