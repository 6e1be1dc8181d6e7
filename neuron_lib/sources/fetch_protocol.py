"""The messages between the daemon and its fetch process: one order in, frames out, each one line of JSON. Pure.

The order may have a token, so it is sent only on the child's stdin. The end of stdin tells the child that the daemon no
longer waits for it.
"""

from pathlib import Path
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from neuron_lib.config import DownloadConfig
from neuron_lib.error_frames import ErrorFrame
from neuron_lib.sources.formats import GGUF
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
)


class FetchOrder(Struct, frozen=True, kw_only=True):
    """Bring a model's files into the cache, whole and hashed.

    With `listing` the order is about exactly these files, which are in the cache. They are hashed. A file whose hash is
    wrong is deleted, and the order fails with `CHECKSUM_MISMATCH`. No hub is asked. Without `listing` the hub is asked
    for its files, and `formats`, `quant` and `room_bytes` choose among them (`select_files`).

    Files of more than `most_bytes` together are refused before any of them is fetched, because they would fit into no
    memory of this host.

    With `outline_dir` the hub is asked in the same way, but only the headers of the chosen files are fetched, into this
    directory (`outline`). The cache is not touched. With `precedes_fetch` as well, files for which this host has no
    memory or no room on its disk are refused as if they were to be fetched. Of a model in safetensors nothing is
    fetched: its outline is files of the same sizes with holes alone.
    """

    repository: HubRepository
    limits: DownloadConfig
    listing: Listing | None = None
    formats: tuple[str, ...] = (GGUF,)
    quant: str | None = None
    room_bytes: int | None = None
    most_bytes: int | None = None
    outline_dir: Path | None = None
    precedes_fetch: bool = False


class Advance(Struct, frozen=True, kw_only=True, tag="advance"):
    """The progress: `bytes` of `total_bytes`, of all files in this stage. `file` is one of them."""

    stage: LoadStage
    file: str
    bytes: int
    total_bytes: int


class Alive(Struct, frozen=True, tag="alive"):
    """A hub has been asked a question, with or without success. There are no bytes to count yet."""


class Fetched(Struct, frozen=True, kw_only=True, tag="fetched"):
    """The last frame of a success: where the files are, in the order in which the engine counts them, and their format.

    The first file of a model in safetensors is in the folder of the model.
    """

    commit: str
    paths: tuple[Path, ...]
    format: str = GGUF


class Failed(Struct, frozen=True, tag="failed"):
    """The last frame of a failure."""

    error: ErrorFrame


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
