"""Every error the library raises on purpose. The class says what the caller should do next; there is no HTTP here.

NeuronError                     catch this one to catch them all
├── RequestRejected             this request, now; `retry_after_s` says whether trying again can help
│   ├── InvalidRequest          fix the request (`param` names the field)
│   │   └── InvalidGrammar      simplify what the reply must look like
│   ├── PromptTooLong           shorten the prompt
│   ├── TemplateFailed          the model's chat template cannot render these messages
│   ├── UnsupportedCapability   ask a model that can do it
│   ├── WrongModality           ask another model: this one does not chat
│   ├── SuspectRequest          change it: two engines died with this request in them
│   ├── ModelNotLoaded          load the model first
│   │   └── ModelLoading        wait: it is being loaded, or will be
│   ├── Overloaded              wait and retry
│   │   └── KvWaitExpired       wait and retry: other requests hold the cells
│   ├── TooLargeForKv           ask for less: the cells of the whole model would not do
│   ├── UpstreamRefused         the server behind this host does not serve it; look at that server
│   ├── RequestLoop             a remote model leads back here; mend the configuration
│   ├── NoHarness               this host will never answer; go to another one
│   └── ShuttingDown            go to another host
├── LoadFailed                  this model, with this spec, will not load; retrying does not help
│   ├── AlreadyLoaded           nothing to do
│   ├── LoadCancelled           somebody unloaded it meanwhile
│   ├── UnknownHarness · InvalidModelId · UnknownSource
│   └── PreflightFailed         its files cannot be what is asked for: PreflightKind says why
├── UnloadFailed                a model does not go and may keep its memory; look at the host
├── SourceUnavailable           transient: the hub, the network, or a host out of descriptors; worth a retry
├── EngineDead                  the engine process is gone; what it was doing is lost
├── EngineFailed                the engine reported a failure of this one request
└── ConfigError                 fix the configuration file
"""

from enum import StrEnum
from typing import Any, ClassVar

from neuron_lib.shown import LONGEST_CHAIN, LONGEST_MESSAGE, LONGEST_QUOTE, bounded, clip

__all__ = (
    "AlreadyLoaded",
    "ConfigError",
    "EngineDead",
    "EngineFailed",
    "InvalidGrammar",
    "InvalidModelId",
    "InvalidRequest",
    "KvWaitExpired",
    "LoadCancelled",
    "LoadFailed",
    "ModelLoading",
    "ModelNotLoaded",
    "NeuronError",
    "NoHarness",
    "OverloadReason",
    "Overloaded",
    "PreflightFailed",
    "PreflightKind",
    "PromptTooLong",
    "RequestLoop",
    "RequestRejected",
    "ShuttingDown",
    "SourceUnavailable",
    "SuspectRequest",
    "TemplateFailed",
    "TooLargeForKv",
    "UnknownHarness",
    "UnknownSource",
    "UnloadFailed",
    "UnsupportedCapability",
    "UpstreamRefused",
    "WrongModality",
    "cause_chain",
    "first_leaf",
)


class NeuronError(Exception):
    """Base of all errors of this library.

    `code` is a stable machine-readable name. `fields` has the numbers and names behind the message, for logs and for
    the wire. The message alone must be enough to act on.

    Message and fields are bounded (`neuron_lib.shown`), whatever they quote. If a message quotes a string of a client,
    a hub or a file, quote `clip(string)`, so that the rest of the message is not cut off.

    A class declares the attributes that it adds, by their types: `neuron_lib.error_frames` carries them to another
    process.
    """

    code: str = "internal_error"
    message: str
    fields: dict[str, Any]
    quotes_request: ClassVar[bool] = False
    """Whether the message may quote the content of a request: a prompt, a schema, a grammar. A log must not show such a
    message.
    """

    def __init__(self, message: str, **fields: Any) -> None:
        message = clip(message, LONGEST_MESSAGE)
        super().__init__(message)
        self.message = message
        self.fields = {name: bounded(value) for name, value in fields.items()}

    @property
    def log_message(self) -> str:
        """The text for a log: the `cause_chain`, or the code of an error that may quote a request."""
        return self.code if self.quotes_request else cause_chain(self)


class RequestRejected(NeuronError):
    """One request was refused, and nothing changed. `retry_after_s` is in seconds, None if repeating the request cannot
    help.
    """

    code = "request_rejected"
    retry_after_s: int | None = None


class InvalidRequest(RequestRejected):
    """A value of the request is missing, of the wrong type or out of range. `param` names it, if one value is wrong.

    `summary` is the message for the log, without any text of the client. Without a summary the log has the code.
    """

    code = "invalid_request_body"
    quotes_request = True
    param: str | None
    _summary: str | None

    def __init__(self, message: str, *, param: str | None = None, summary: str | None = None, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.param = None if param is None else clip(param)
        self._summary = None if summary is None else clip(summary)

    @property
    def log_message(self) -> str:
        """The summary, if there is one."""
        return super().log_message if self._summary is None else self._summary


class InvalidGrammar(InvalidRequest):
    """A schema, regular expression or grammar for the reply does not compile, or is too complex."""

    code = "invalid_grammar"


class PromptTooLong(RequestRejected):
    """The rendered prompt has more tokens than the model may read. Both numbers are tokens.

    `param` names the text of the request that is too long, None for the messages of a chat.
    """

    code = "context_length_exceeded"
    param: str | None = None

    def __init__(self, *, prompt_tokens: int, limit: int, param: str | None = None) -> None:
        what, advice = (param, "Shorten it.")
        if param is None:
            what, advice = "the prompt", "The prompt is too long: shorten the messages."
        super().__init__(
            # Clients search for "maximum context length is" or "prompt is too long", and then shorten the conversation.
            f"This model's maximum context length is {limit} tokens, but {what} has {prompt_tokens} tokens. {advice}",
            prompt_len=prompt_tokens,
            max=limit,
        )
        self.param = param


class TemplateFailed(RequestRejected):
    """The chat template raised, took too long, or produced too much. Its own message may quote the chat."""

    code = "template_render_failed"
    quotes_request = True


class UnsupportedCapability(RequestRejected):
    """The model cannot do what the request asks for. `code` says what: by default, to read an image."""

    code: str = "vision_unsupported"

    def __init__(self, message: str, *, code: str = code, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.code = code


class WrongModality(RequestRejected):
    """The model cannot do this task. For example, a chat was sent to a model that makes embeddings."""

    code = "wrong_modality"
    model_id: str

    def __init__(
        self, model_id: str, capabilities: tuple[str, ...], *, task: str = "chat", wants: str = "text"
    ) -> None:
        """`task` is what the model cannot do, and `wants` the capability of models that can."""
        able = " and ".join(capabilities) or "unknown"
        super().__init__(
            f"model {model_id!r} cannot {task}: its only use is {able}",
            model_id=model_id,
            suggestion=f"choose a model whose capabilities include {wants}",
        )
        self.model_id = model_id


class SuspectRequest(RequestRejected):
    """Two engines died while they worked on this request, or lately on an equal one alone. It is not tried again."""

    code = "suspect_request"

    def __init__(self, model_id: str, first_death: str, second_death: str) -> None:
        super().__init__(
            f"the engine of model {clip(model_id)!r} died twice while it worked on this request, which is suspected of "
            f"the crash and not tried again: {first_death}; then {second_death}",
            model_id=model_id,
        )


class ModelNotLoaded(RequestRejected):
    """No model of this id is resident here. `reason` says why, if its last load failed or it was given up."""

    code = "model_not_found"
    model_id: str

    def __init__(self, model_id: str, reason: str | None = None) -> None:
        text = f"model {clip(model_id)!r} is not loaded on this host"
        super().__init__(text if reason is None else f"{text}: {reason}", model_id=model_id)
        self.model_id = model_id


class ModelLoading(ModelNotLoaded):
    """The model does not serve yet, but it is being loaded or will be. The same request can succeed later.

    `stage` is the stage of its load, `pending` before its first try or while it waits for room, `deferred` between two
    tries, or `cooling_down` for some time after a failed load on demand.
    """

    code = "model_loading"
    stage: str

    def __init__(self, model_id: str, text: str, *, stage: str, retry_after_s: int, **fields: Any) -> None:
        super().__init__(model_id, text)
        self.stage = stage
        self.retry_after_s: int | None = retry_after_s
        self.fields.update(stage=stage, **fields)


class OverloadReason(StrEnum):
    """Why there was no room for a request."""

    QUEUE_FULL = "queue_full"
    WAIT_EXPIRED = "wait_expired"
    PRINCIPAL_CAP = "principal_cap"
    ANONYMOUS_YIELD = "anonymous_yield"
    KV_WAIT_EXPIRED = "kv_wait_expired"
    ENGINE_LOST = "engine_lost"
    TOO_MANY_LOADS = "too_many_loads"
    NO_ROOM = "no_room"
    UPSTREAM = "upstream"


class Overloaded(RequestRejected):
    """There is no room for this request now. `retry_after_s` estimates in seconds when there will be."""

    code = "rate_limit_exceeded"
    reason: OverloadReason

    def __init__(self, message: str, *, reason: OverloadReason, retry_after_s: int, **fields: Any) -> None:
        super().__init__(message, **fields)
        self.reason = reason
        self.retry_after_s: int | None = retry_after_s


class KvWaitExpired(Overloaded):
    """Seats were free, but other requests held the cells for too long. `fields` has MiB: `free_mb` of all cells of the
    model, `required_mb` of those that this request needs.
    """

    code = "insufficient_vram"


class TooLargeForKv(RequestRejected):
    """The prompt and the replies of this request together need more cells than the model has. `fields` has MiB:
    `required_mb`, and `budget_mb` of all cells.
    """

    code = "prompt_too_long_for_vram"


class ShuttingDown(RequestRejected):
    """The host is stopping and admits nothing more."""

    code = "shutting_down"
    retry_after_s: int | None = 15

    def __init__(self) -> None:
        super().__init__("this host is shutting down")


class NoHarness(RequestRejected):
    """This host is configured without any harness, so it can neither load nor answer."""

    code = "no_harness"

    def __init__(self) -> None:
        super().__init__("no harness is configured on this host: it serves no models")


class UpstreamRefused(RequestRejected):
    """The server that has the model did not take the request, for a reason that the client cannot remove: it does not
    accept this host's key, does not know the model, or answers what is no API. `status` is that of its answer.
    """

    code = "upstream_refused"
    status: int

    def __init__(self, message: str, *, status: int, **fields: Any) -> None:
        super().__init__(message, upstream_status=status, **fields)
        self.status = status


class RequestLoop(RequestRejected):
    """The request has been passed on too often. Most probably a remote model of one host leads back to this host."""

    code = "request_loop"

    def __init__(self, hops: int) -> None:
        super().__init__(
            f"this request was passed on by {hops} hosts: a remote model leads back to a host that it came from; look "
            "at the `url` of the remote harnesses of these hosts",
            hops=hops,
        )


class LoadFailed(NeuronError):
    """A model could not be loaded. The same spec will fail again until somebody changes something."""

    code = "load_failed"


class AlreadyLoaded(LoadFailed):
    """The model is resident. The gateway takes the words "already loaded" for success. No other error may use them."""

    code = "already_loaded"

    def __init__(self, model_id: str) -> None:
        super().__init__(f"model {clip(model_id)!r} is already loaded", model_id=model_id)


class LoadCancelled(LoadFailed):
    """The load was stopped from outside: by an unload of the same id, or by shutdown."""

    code = "load_cancelled"


class UnknownHarness(LoadFailed):
    """The spec names a harness that is not registered."""

    code = "unknown_harness"


class InvalidModelId(LoadFailed):
    """The id does not follow `[scheme:]org/name`."""

    code = "invalid_model_id"


class UnknownSource(LoadFailed):
    """The id's scheme has no configured source."""

    code = "unknown_source"


class PreflightKind(StrEnum):
    """What is wrong with a model's files (`docs/reference/wire-contract.md#refused-files`). Part of the wire."""

    REPO_FETCH_FAILED = "repo_fetch_failed"
    EMPTY_REPO = "empty_repo"
    QUANT_NOT_FOUND = "quant_not_found"
    # additions of this project, which the gateway does not know
    REPO_NOT_FOUND = "repo_not_found"
    REVISION_NOT_FOUND = "revision_not_found"
    GATED_REPO = "gated_repo"
    GGUF_REQUIRED = "gguf_required"
    FILE_NOT_FOUND = "file_not_found"
    INSUFFICIENT_STORAGE = "insufficient_storage"
    CACHE_NOT_WRITABLE = "cache_not_writable"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    INVALID_GGUF = "invalid_gguf"
    UNSUPPORTED_MODEL = "unsupported_model"
    INSUFFICIENT_MEMORY = "insufficient_memory"


class PreflightFailed(LoadFailed):
    """The model's files cannot be what the spec asks for. `fields` become the keys of the wire's `error` object."""

    code = "preflight_failed"
    kind: PreflightKind
    model_id: str

    def __init__(self, kind: PreflightKind, message: str, *, model_id: str, **fields: Any) -> None:
        super().__init__(message, model_id=model_id, **fields)
        self.kind = kind
        self.model_id = model_id

    @classmethod
    def of_memory(
        cls, message: str, *, model_id: str, needed_bytes: int, free_bytes: int, **fields: Any
    ) -> "PreflightFailed":
        """The model needs more memory than it can get. MiB are rounded so that the numbers show the lack."""
        return cls(
            PreflightKind.INSUFFICIENT_MEMORY,
            message,
            model_id=model_id,
            **fields,
            needed_bytes=needed_bytes,
            free_bytes=free_bytes,
            needed_mb=-(-needed_bytes >> 20),
            free_mb=free_bytes >> 20,
        )


class UnloadFailed(NeuronError):
    """A model was to be unloaded, and its harness failed or takes too long. Its memory may still be taken."""

    code = "unload_failed"
    model_id: str

    def __init__(self, message: str, *, model_id: str, **fields: Any) -> None:
        super().__init__(message, model_id=model_id, **fields)
        self.model_id = model_id


class SourceUnavailable(NeuronError):
    """A model source did not answer as it should, or this host could not open a file or start a process or a thread.

    The same load may succeed later. `retry_after_s` is the time in seconds that the source names, None if it names
    none.
    """

    code = "source_unavailable"
    model_id: str
    retry_after_s: int | None

    def __init__(self, message: str, *, model_id: str, retry_after_s: int | None = None, **fields: Any) -> None:
        super().__init__(message, model_id=model_id, **fields)
        self.model_id = model_id
        self.retry_after_s = retry_after_s


class EngineDead(NeuronError):
    """The engine process of a model is gone. `reason` has the signal's name and its last words, or says that it was
    unloaded.
    """

    code = "engine_dead"
    model_id: str
    reason: str

    def __init__(self, model_id: str, reason: str) -> None:
        super().__init__(f"the engine of model {clip(model_id)!r} is gone: {reason}", model_id=model_id)
        self.model_id = model_id
        self.reason = reason


class EngineFailed(NeuronError):
    """The engine could not finish this request. It goes on serving others."""

    code = "engine_failed"


class ConfigError(NeuronError):
    """The configuration cannot be used. The message names the file, the key and, for a typo, the nearest key."""

    code = "invalid_config"


def cause_chain(error: BaseException) -> str:
    """The error's message followed by the messages of all its causes, outermost first, joined by `: `.

    Operators see this one line. An outermost message without its causes once hid a missing home directory for hours.
    Exception groups are replaced by their first member. The text of another library's exception is cut to
    `LONGEST_QUOTE` characters, and the whole to a few thousand.
    """
    parts: list[str] = []
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        if isinstance(current, BaseExceptionGroup):
            current = first_leaf(current)
            continue
        name = type(current).__name__
        if isinstance(current, NeuronError):
            text = " ".join(current.message.split())
            part = text or name
        else:
            text = clip(" ".join(str(current).split()), LONGEST_QUOTE)
            part = f"{name}: {text}" if text else name
        # A message that quotes an OSError mostly quotes its `strerror`, without the number and the file.
        quotes = (text, current.strerror) if isinstance(current, OSError) else (text,)
        if not (parts and any(quote and parts[-1].endswith(f": {quote}") for quote in quotes)):
            parts.append(part)
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)
    chain = ": ".join(part for i, part in enumerate(parts) if i == 0 or part != parts[i - 1])
    return clip(chain, LONGEST_CHAIN)


def first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first exception in a group that is not a group itself. If only one thing went wrong, this is it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
