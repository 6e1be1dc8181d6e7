"""A flag that breaks off a running `llama_decode`, from any thread and without the GIL. GPU backends do not read it.

libllama calls its abort callback several hundred times a step. A Python function would take the GIL each time. So the
callback is libc's `strlen`, and its argument is two bytes: an empty string means "go on", a string of one byte means
"stop".
"""

import ctypes
from typing import Any, Final

from neuron_lib.llama.bindings import lib

__all__ = ("AbortFlag",)


class AbortFlag:
    """Must live as long as the context that it is given to."""

    def __init__(self) -> None:
        self._text: Final = ctypes.create_string_buffer(2)
        self.data: Final = ctypes.cast(self._text, ctypes.c_void_p)
        self.callback: Final[Any] = self._strlen() or lib.ggml_abort_callback(lambda _data: self.is_set)

    @property
    def is_set(self) -> bool:
        return self._text.value != b""

    def set(self) -> None:
        """Break off the running computation and all later ones. May be called from any thread."""
        self._text.value = b"\x01"

    def _strlen(self) -> Any:
        """`strlen` as libllama would call it. None on a machine on which the returned length is not read as a truth
        value.
        """
        callback = ctypes.cast(ctypes.CDLL(None).strlen, lib.ggml_abort_callback)
        heard = [callback(ctypes.cast(ctypes.c_char_p(text), ctypes.c_void_p)) for text in (b"", b"\x01")]
        return callback if heard == [False, True] else None
