"""Traffic with the lengths of public traces. Pure.

A log-normal distribution is given by its median m and its mean a: sigma = sqrt(2 ln(a / m)).

CHAT    Azure's conversation trace of November 2023 (Patel et al., Splitwise, ISCA 2024): prompts with median 1020 and
        mean 1155, replies with median 129 and mean 211
CODE    Azure's code trace of the same day: prompts with median 1500 and mean 2048, replies with median 13 and mean 28
SHORT   ShareGPT as used by Kwon et al. (vLLM, SOSP 2023): prompts with mean 161, replies with mean 338. Their medians
        are not given, so sigma is assumed to be 1
BURSTS  Wang et al. (BurstGPT, 2024) model times between requests as a Gamma distribution; the coefficient of variation
        of 2 is our assumption, in the range that they show
"""

from typing import Any, Final

from benchmarks.fleet_sim.traffic import Lengths, Traffic

__all__ = ("BURSTS", "CHAT", "CODE", "SHORT", "of")

CHAT: Final[dict[str, Lengths]] = {
    "prompt": Lengths(median=1020, sigma=0.50, least=4, most=6000),
    "reply": Lengths(median=129, sigma=0.99, least=2, most=1500),
}
CODE: Final[dict[str, Lengths]] = {
    "prompt": Lengths(median=1500, sigma=0.79, least=4, most=7000),
    "reply": Lengths(median=13, sigma=1.24, least=2, most=500),
}
SHORT: Final[dict[str, Lengths]] = {
    "prompt": Lengths(median=98, sigma=1.0, least=4, most=1000),
    "reply": Lengths(median=205, sigma=1.0, least=2, most=900),
}
BURSTS: Final[dict[str, Any]] = {"arrivals": "gamma", "cv": 2.0}


def of(lengths: dict[str, Lengths], rate: float, **more: Any) -> Traffic:
    """Traffic with these lengths, `rate` conversations in a second, and what `more` says of `Traffic`."""
    options: dict[str, Any] = {**BURSTS, **lengths, **more}
    return Traffic(conversations_per_s=rate, **options)
