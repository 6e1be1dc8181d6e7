"""The fetch process without the process: quick, patient in no time, and with all that is said put through the wire."""

from collections.abc import Mapping

import anyio.from_thread
import anyio.to_thread

from neuron_lib.error_frames import from_frame, to_frame
from neuron_lib.errors import LoadFailed, NeuronError
from neuron_lib.harness import ProgressReporter
from neuron_lib.sources.fetch_process import RateMeter
from neuron_lib.sources.fetch_protocol import (
    Advance,
    Alive,
    Failed,
    Fetched,
    FetchOrder,
    Frame,
    decode_frame,
    decode_order,
    encode_line,
)
from neuron_lib.sources.fetch_worker import fetch

__all__ = ("fetch_in_thread",)


async def fetch_in_thread(
    order: FetchOrder, *, environment: Mapping[str, str], report: ProgressReporter, ends_with_thread: bool
) -> Fetched:
    """Take the place of `run_fetch`. Cannot be cancelled, and has no process that could outlive anybody."""
    meter = RateMeter()

    def emit(frame: Frame) -> None:
        seen = decode_frame(encode_line(frame))
        if isinstance(seen, Alive):
            return
        assert isinstance(seen, Advance)
        anyio.from_thread.run_sync(lambda: report(meter.progress(anyio.current_time(), seen)))

    def work() -> Frame:
        try:
            return fetch(decode_order(encode_line(order)), emit, pause=lambda _: None)
        except NeuronError as error:
            return Failed(to_frame(error))

    last = decode_frame(encode_line(await anyio.to_thread.run_sync(work)))
    if isinstance(last, Failed):
        raise from_frame(last.error, unknown=LoadFailed)
    assert isinstance(last, Fetched)
    return last
