"""The fields of a body that say how much is written and how it is given out, as all of OpenAI's APIs for text share."""

from typing import Annotated, Final, TypeAlias

from msgspec import Meta, Struct

from neuron_lib.wire.field_types import CountOrDefault, ModelId, StopText
from neuron_lib.wire.json_bounds import check_u64, refusal
from neuron_lib.wire.keep_alive import KeepAlive
from neuron_lib.wire.reply_shape import ReplyShapeFields

__all__ = ("StreamOptions", "WritingFields", "max_tokens_of", "stop_of", "stream_options_of")

_MAX_STOPS: Final = 16

_Stops: TypeAlias = StopText | list[StopText]


class StreamOptions(Struct):
    """`include_usage` asks for the usage in an event of its own, `continuous_usage_stats` for the usage so far in every
    event.
    """

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class WritingFields(ReplyShapeFields, frozen=True, kw_only=True):
    """The fields beside those of `ReplyShapeFields`. null means the same as an absent field."""

    model: ModelId
    max_completion_tokens: CountOrDefault | None = None
    max_tokens: CountOrDefault | None = None
    n_predict: CountOrDefault | None = None
    stop: _Stops | None = None
    stop_sequences: _Stops | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    keep_alive: KeepAlive | None = None


def max_tokens_of(call: WritingFields, *, absent: int | None = None) -> int | None:
    """How many tokens the reply may have; None for the default of the service.

    Three fields say it: `max_completion_tokens` counts before `max_tokens`, and `max_tokens` before `n_predict`. A
    field that is -1 or absent does not count. If all are absent, it is `absent`. Raises `InvalidRequest`.
    """
    wanted = None
    names = ("n_predict", "max_tokens", "max_completion_tokens")
    for name in names:
        count = getattr(call, name)
        if count == 0:
            raise refusal(name, "Expected `int` >= 1, or -1 for the default")
        check_u64(count, name)
        wanted = wanted if count in {None, -1} else count
    return absent if all(getattr(call, name) is None for name in names) else wanted


def stop_of(call: WritingFields) -> tuple[str, ...]:
    """The texts that end the reply. `stop` is OpenAI's field, `stop_sequences` Anthropic's. Empty texts are dropped.

    Raises `InvalidRequest` for too many.
    """
    stops: list[str] = []
    for name in ("stop", "stop_sequences"):
        value = getattr(call, name) or []
        stops += [text for text in ([value] if isinstance(value, str) else value) if text and text not in stops]
        if len(stops) > _MAX_STOPS:
            raise refusal(name, f"Expected `array` of length <= {_MAX_STOPS}")
    return tuple(stops)


def stream_options_of(call: WritingFields) -> StreamOptions:
    """The options of a stream. Raises `InvalidRequest` for options of a reply that is no stream."""
    if call.stream_options is not None and not call.stream:
        raise refusal("stream_options", "only where `stream` is true")
    return call.stream_options or StreamOptions()
