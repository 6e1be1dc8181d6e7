"""`neuron bench`."""

import re
from typing import Final

import click

from neuron_service.cli.completion import complete_models_and_files
from neuron_service.cli.daemon import host_option
from neuron_service.cli.options import ConfigOptions, json_option, with_config

__all__ = ("bench",)

_MOST_STREAMS: Final = 256
_MOST_LEVELS: Final = 16


def _streams(_context: click.Context, parameter: click.Parameter, text: str) -> tuple[int, ...]:
    """Numbers with commas between them. Raises `click.BadParameter`."""
    words = text.split(",")
    counts = tuple(int(word) for word in words if re.fullmatch(r" *[0-9]{1,3} *", word))
    if len(counts) < len(words) or len(counts) > _MOST_LEVELS or not all(1 <= each <= _MOST_STREAMS for each in counts):
        raise click.BadParameter(
            f"{text!r} is not up to {_MOST_LEVELS} numbers from 1 to {_MOST_STREAMS}, such as 1,2,4", param=parameter
        )
    return counts


@click.command()
@click.argument("model", required=False, shell_complete=complete_models_and_files)
@click.option(
    "--streams", default="1,2,4,8", callback=_streams, help="How many replies run at a time. Default: 1,2,4,8."
)
@click.option("--tokens", type=click.IntRange(2, 8192), default=128, help="The length of each reply. Default: 128.")
@click.option(
    "--prompt-words", type=click.IntRange(8, 100_000), default=128, help="The length of each prompt. Default: 128."
)
@host_option
@json_option
@with_config()
def bench(
    options: ConfigOptions,
    *,
    model: str | None,
    streams: tuple[int, ...],
    tokens: int,
    prompt_words: int,
    host: str | None,
    as_json: bool,
) -> int:
    """Measure how fast a model replies to one and to several at the same time.

    MODEL is a GGUF file, org/name[:quant] of Hugging Face, or an id of the configuration. The model of a daemon that
    runs is measured, or else the model is loaded for this command. The prompts differ, so no cache of prompts helps.
    """
    from neuron_service.cli.bench import run_bench

    return run_bench(
        options,
        model,
        host=host,
        streams=streams,
        tokens=tokens,
        prompt_words=prompt_words,
        as_json=as_json,
    )
