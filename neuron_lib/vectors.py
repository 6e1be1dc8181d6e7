"""Numbers that models say about texts: vectors of length 1, and degrees of relevance. Pure."""

import math
from collections.abc import Sequence
from typing import Final

from neuron_lib.errors import InvalidRequest

__all__ = ("check_dimensions", "relevance", "shortened")

_ROUNDING: Final = 1e-3
"""By how much float32 probabilities may miss the sum of 1."""


def check_dimensions(wanted: int | None, *, width: int) -> None:
    """Raise `InvalidRequest` if a vector of `width` numbers has no `wanted` first ones. None wants all of them."""
    if wanted is not None and not 1 <= wanted <= width:
        text = f"dimensions: {wanted} are wanted, and the vectors of this model have {width}"
        raise InvalidRequest(text, param="dimensions", summary=text)


def shortened(vector: Sequence[float], dimensions: int | None) -> tuple[float, ...]:
    """The first `dimensions` numbers of `vector`, scaled to length 1; all of them, as they are, for None.

    Numbers that are all 0 stay so.
    """
    if dimensions is None:
        return tuple(vector)
    kept = vector[:dimensions]
    length = math.hypot(*kept)
    return tuple(value / length for value in kept) if length > 0 else tuple(kept)


def relevance(outputs: Sequence[float]) -> float:
    """How well a document answers a query, from 0 to 1, by the outputs of a reranker's classifier.

    A single output is a logit. Of several outputs the first one says yes. They are logits too, unless they are
    probabilities already: libllama takes the softmax of some architectures itself.
    """
    first = outputs[0]
    if len(outputs) == 1:
        return 1 / (1 + math.exp(-first)) if first >= 0 else math.exp(first) / (1 + math.exp(first))
    if min(outputs) >= 0 and abs(math.fsum(outputs) - 1) < _ROUNDING:
        return first
    greatest = max(outputs)
    weights = [math.exp(output - greatest) for output in outputs]
    return weights[0] / math.fsum(weights)
