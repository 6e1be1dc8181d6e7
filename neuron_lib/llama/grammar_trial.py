"""Compiles a grammar in a process that may die of it: `python grammar_trial.py < grammar` prints what is wrong with it.

llguidance bounds its work, with two exceptions: rules that lead to rules overflow its stack, and `multipleOf` takes all
memory (both measured). This file is run by its path, because importing the package would take far longer.
"""

import os
import resource
import signal
import sys
from typing import Final

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

__all__ = ("compile_grammar",)

_CPU_LIMIT_S: Final = 0.4
_MEMORY_LIMIT_BYTES: Final = 192 << 20
_STACK_LIMIT_BYTES: Final = 2 << 20
"""A quarter of the stack of the thread that compiles the grammar for use. A grammar that passes here passes there."""

# The work of one mask grows with items × items in a row, and with the forced text, which the initial fuel bounds. With
# these limits an absurd grammar gets 60 ms, with the defaults of llguidance 4 s (measured).
_LIMITS: Final = LLParserLimits(
    max_items_in_row=1_000,
    step_max_items=2_000,
    initial_lexer_fuel=200_000,
    step_lexer_fuel=200_000,
    max_lexer_states=50_000,  # about 1 kB each
    max_grammar_size=100_000,
    verbose_errors=False,
)


def compile_grammar(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """A matcher for `grammar`, which is in llguidance's own notation. It `is_error` if the text is no grammar or too
    much.
    """
    return LLMatcher(tokenizer, grammar, log_level=0, limits=_LIMITS)


def _main() -> None:
    grammar = sys.stdin.buffer.read().decode()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT_BYTES, _MEMORY_LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_STACK, (_STACK_LIMIT_BYTES, _STACK_LIMIT_BYTES))
    signal.setitimer(signal.ITIMER_PROF, _CPU_LIMIT_S)  # the signal ends the process
    try:
        sys.stdout.buffer.write(compile_grammar(LLTokenizer("byte"), grammar).get_error().encode())
    except BaseException:  # noqa: BLE001 - a panic is no Exception
        os._exit(os.EX_DATAERR)  # only now it is the grammar's fault


if __name__ == "__main__":
    _main()
