"""What is known of an installed llama.cpp. Loads no library, so that the daemon's side can read it."""

from msgspec import Struct

__all__ = ("LlamaBuild",)


class LlamaBuild(Struct, frozen=True, kw_only=True):
    """`supports_gpu` says whether the library has code for a GPU of this host, and `gpus` which GPUs it sees.

    `supports_rpc` says whether it can use devices of other hosts.
    """

    binding_version: str
    supports_gpu: bool
    gpus: tuple[str, ...]
    supports_rpc: bool = False
