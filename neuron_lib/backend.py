"""What a service must know of a backend to offer it: its table in the configuration, and how to make its harness.

A program that makes its harnesses itself needs none of this.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from msgspec import Struct

from neuron_lib.config import ModelEntry, Section, StoreSettings
from neuron_lib.harness import Harness
from neuron_lib.sockets import SocketReader, read_socket
from neuron_lib.types import ModelSpec

__all__ = ("Backend", "HarnessSetup")

S = TypeVar("S", bound=Struct)


@dataclass(frozen=True, slots=True, kw_only=True)
class HarnessSetup:
    """What a host gives to each of its harnesses beside the harness's own table.

    `gpu_memory_mb` says the memory of each GPU that has been seen so far, in MiB; it may be called at any time.
    `environ` has the tokens of hubs. `max_prompt_tokens` bounds every prompt of the host. With `ends_with_thread` the
    kernel may end child processes with the thread that started them, because that thread is the process's main thread.
    `read` reads the sockets of child processes. `host_limit_bytes` says how much of the host's memory all models may
    take together, None for all that is free. `store` says where model files come from, for a backend whose own table
    does not: it is that of the first backend that fetches models. None where there is none.
    """

    models: tuple[ModelEntry, ...]
    environ: Mapping[str, str]
    gpu_memory_mb: Callable[[], Sequence[int]]
    max_prompt_tokens: int
    ends_with_thread: bool
    read: SocketReader = read_socket
    host_limit_bytes: Callable[[], int | None] = lambda: None
    store: StoreSettings | None = None


def _check_nothing(_spec: ModelSpec) -> None:
    pass


def _check_no_entry(_entry: Struct, _environ: Mapping[str, str]) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend(Section[S], Generic[S]):
    """One kind of harness that a service can offer, as its package describes it. Importing the description is cheap.

    `make` makes a harness from its table, or from one of its `[[harnesses]]` entries if the backend `has_many`, and
    from the host's setup. It may block and import much, and is called in a worker thread. `check_spec` raises
    `LoadFailed` for a model that this backend could load on no host; it looks at the spec alone. `check_entry` raises
    `LoadFailed` for a table or an entry with which no model loads on this host as it is, in the given environment. It
    may look at the disk, for milliseconds.
    """

    make: Callable[[S, HarnessSetup], Harness]
    check_spec: Callable[[ModelSpec], object] = _check_nothing
    check_entry: Callable[[S, Mapping[str, str]], object] = _check_no_entry
