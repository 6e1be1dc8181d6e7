"""The only module that imports llama_cpp. ctypes functions have no types, so they are exported as `lib: Any`.

The modules that use `lib` give everything a type.
"""

import ctypes
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

__all__ = ("ProgressCallback", "init_backend", "lib", "native_function", "progress_callback", "route_logs")


def _import_low_level() -> Any:
    """llama_cpp's C functions. OpenMP may bind the thread that loads the library to a core; this is undone.

    An installation that is broken ends the process, which is an engine, with one line instead of a traceback.
    """
    cpus = os.sched_getaffinity(0)
    try:
        from llama_cpp import llama_cpp  # noqa: PLC0415 - between two looks at the thread's affinity
    except Exception as error:  # a package that looks for libraries as it likes raises what it likes
        raise SystemExit(f"llama.cpp cannot be loaded: {type(error).__name__}: {error}") from error
    finally:
        os.sched_setaffinity(0, cpus)
    return llama_cpp


lib: Final[Any] = _import_low_level()

ProgressCallback = Callable[[float], bool]

# libllama keeps the raw function pointer for the life of the process, so the callback object must live as long.
_log_callback: Any = None


def native_function(name: str, arguments: Sequence[Any], result: Any) -> Callable[..., Any]:
    """A function of the native libraries that llama_cpp does not bind, by its types of ctypes."""
    bound: Callable[..., Any] = lib.ctypes_function(name, [*arguments], result)(_unbound)
    return bound


def _unbound() -> None:
    """llama_cpp gives the bound function the name of another one."""


def init_backend() -> None:
    """Prepare libllama. Must be called once in a process, before anything else."""
    lib.llama_backend_init()


def route_logs(sink: Callable[[int, str], None]) -> None:
    """Pass every log fragment of libllama to `sink(level, text)` from now on. Any thread may write one.

    Levels are ggml's: 1 debug, 2 info, 3 warning, 4 error, 5 continues the previous fragment. `sink` must not raise.
    """
    global _log_callback  # noqa: PLW0603 - the C library has exactly one log callback per process

    @lib.llama_log_callback  # type: ignore[untyped-decorator]  # a ctypes function type
    def forward(level: int, text: bytes, _user_data: object) -> None:
        sink(level, text.decode("utf-8", "replace"))

    _log_callback = forward
    lib.llama_log_set(forward, None)


def progress_callback(report: ProgressCallback) -> Any:
    """Wrap `report(fraction) -> go on?` for llama_model_params. The caller must keep the result alive while the load
    runs.
    """

    @lib.llama_progress_callback  # type: ignore[untyped-decorator]  # a ctypes function type
    def forward(fraction: float, _user_data: ctypes.c_void_p) -> bool:
        return report(fraction)

    return forward
