"""Looks at the hardware again and again until a look succeeds, because a driver may be slow when a host starts."""

from collections.abc import Awaitable, Callable
from itertools import count
from typing import Final, TypeAlias

import anyio

from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.types import Discovery

__all__ = ("Look", "look_until_seen", "pause_after_s", "tool_limit_s")

logger: FieldLogger = get_logger(__name__)

Look: TypeAlias = Callable[[int], Awaitable[Discovery]]
"""Looks at the hardware once. The argument is the number of the look, from 1."""

_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0
_FIRST_TOOL_LIMIT_S: Final = 5.0
_LONGEST_TOOL_LIMIT_S: Final = 60.0
_MOST_DOUBLINGS: Final = 6


def pause_after_s(look: int) -> float:
    """The pause in seconds after the failed look of that number: 1, 2, 4 and so on up to 60."""
    return min(_FIRST_PAUSE_S * 2.0 ** min(look - 1, _MOST_DOUBLINGS), _LONGEST_PAUSE_S)


def tool_limit_s(look: int) -> float:
    """How long a vendor's tool may take in the look of that number, in seconds: 5, 10, 20 and so on up to 60.

    The limit grows because each start of `nvidia-smi` may take longer than 5 s if the driver is not kept loaded.
    """
    return min(_FIRST_TOOL_LIMIT_S * 2.0 ** min(look - 1, _MOST_DOUBLINGS), _LONGEST_TOOL_LIMIT_S)


async def look_until_seen(look: Look, publish: Callable[[Discovery], None]) -> None:
    """Look until a look succeeds, publish its result and return. A result with `max_prompt_tokens` is a success."""
    for number in count(1):
        discovery = await look(number)
        if discovery.max_prompt_tokens is not None:
            if number > 1:
                logger.info("hardware seen", extra={"looks": number, "gpus": len(discovery.devices)})
            publish(discovery)
            return
        await anyio.sleep(pause_after_s(number))
