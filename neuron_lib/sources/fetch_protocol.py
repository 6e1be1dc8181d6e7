"""What the daemon and its fetch process tell each other: one order in, frames out, each one line of JSON.

The order travels on the child's stdin and nowhere else, because it may hold a token, and stdin's end tells the child
that nobody waits any more. Pure.
"""

from pathlib import Path
from typing import Any, Final, TypeAlias

import msgspec
from msgspec import Struct

from neuron_lib.config import DownloadConfig
from neuron_lib.errors import LoadFailed, NeuronError, PreflightFailed, PreflightKind, SourceUnavailable
from neuron_lib.sources.repository import HubRepository, Listing
from neuron_lib.types import LoadStage

__all__ = (
    "Advance",
    "Alive",
    "Failed",
    "FetchOrder",
    "Fetched",
    "Frame",
    "decode_frame",
    "decode_order",
    "encode_line",
    "from_error",
    "to_error",
)


class FetchOrder(Struct, frozen=True, kw_only=True):
    """Bring a model's files into the cache, whole and hashed.

    With `listing` it is about exactly these files, which are in the cache: they are hashed, and one that is wrong is
    deleted and fails as `CHECKSUM_MISMATCH`; no hub is asked. Without it the hub is asked what there is, and `quant`
    and `room_bytes` choose (`select_gguf`).
    """

    repository: HubRepository
    limits: DownloadConfig
    listing: Listing | None = None
    quant: str | None = None
    room_bytes: int | None = None


class Advance(Struct, frozen=True, kw_only=True, tag="advance"):
    """How far it has come: `bytes` of `total_bytes` of all files in this stage."""

    stage: LoadStage
    file: str
    bytes: int
    total_bytes: int


class Alive(Struct, frozen=True, tag="alive"):
    """A hub has been asked something, with or without success; there are no bytes to count yet."""


class Fetched(Struct, frozen=True, kw_only=True, tag="fetched"):
    """The last frame of a success: where the files are, in the order in which the engine counts them."""

    commit: str
    paths: tuple[Path, ...]


class Failed(Struct, frozen=True, kw_only=True, tag="failed"):
    """The last frame of a failure: a `PreflightFailed` if it has a `kind`, else an error of that `code`."""

    code: str
    message: str
    kind: PreflightKind | None = None
    retry_after_s: int | None = None
    fields: dict[str, Any] = {}


Frame: TypeAlias = Advance | Alive | Fetched | Failed


def _decode_path(target: type, value: object) -> object:
    return target(value)


_encoder: Final = msgspec.json.Encoder(enc_hook=str)
_frames: Final[msgspec.json.Decoder[Frame]] = msgspec.json.Decoder(Frame, dec_hook=_decode_path)
_orders: Final = msgspec.json.Decoder(FetchOrder, dec_hook=_decode_path)


def encode_line(message: FetchOrder | Frame) -> bytes:
    """One message as a line."""
    return _encoder.encode(message) + b"\n"


def decode_frame(line: bytes) -> Frame:
    """Read a line of the child. Raises `msgspec.DecodeError`."""
    return _frames.decode(line)


def decode_order(line: bytes) -> FetchOrder:
    """Read the daemon's line. Raises `msgspec.DecodeError`."""
    return _orders.decode(line)


def from_error(error: NeuronError) -> Failed:
    """An error as a frame."""
    return Failed(
        code=error.code,
        message=error.message,
        kind=error.kind if isinstance(error, PreflightFailed) else None,
        retry_after_s=error.retry_after_s if isinstance(error, SourceUnavailable) else None,
        fields={name: value for name, value in error.fields.items() if name != "model_id"},
    )


def to_error(failed: Failed, *, model_id: str) -> NeuronError:
    """The error that the child met, as the exception it was there."""
    if failed.kind is not None:
        return PreflightFailed(failed.kind, failed.message, model_id=model_id, **failed.fields)
    if failed.code == SourceUnavailable.code:
        return SourceUnavailable(failed.message, model_id=model_id, retry_after_s=failed.retry_after_s, **failed.fields)
    return LoadFailed(failed.message, model_id=model_id, **failed.fields)
