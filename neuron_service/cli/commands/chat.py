"""`neuron chat`, and the options that it shares with `neuron run`."""

from typing import Any, Final

import click

from neuron_service.cli.completion import complete_models_and_files
from neuron_service.cli.daemon import host_option
from neuron_service.cli.options import Command, ConfigOptions, Number, with_config

__all__ = ("chat", "with_talk")

_MOST_TOKENS: Final = 1 << 24


def with_talk(function: Command) -> Command:
    """Give a command the options about a reply. Its function gets them under the names of `TalkOptions`."""
    for option in (
        click.option(
            "--stats", "wants_numbers", is_flag=True, help="Say what each reply has cost, and how fast it was."
        ),
        click.option("--seed", type=click.IntRange(0, (1 << 64) - 1), help="Begin the random numbers with this one."),
        click.option("--temperature", type=Number(0, 100), help="0 takes the likeliest word each time."),
        click.option("--max-tokens", type=click.IntRange(1, _MOST_TOKENS), help="The longest reply, in tokens."),
        click.option("--system", metavar="TEXT", help="The system prompt: who the model should be."),
        host_option,
    ):
        function = option(function)
    return function


@click.command()
@click.argument("model", required=False, shell_complete=complete_models_and_files)
@with_talk
@click.option("--no-history", "keeps_history", is_flag=True, default=True, flag_value=False, help="Keep no lines.")
@with_config()
def chat(options: ConfigOptions, *, model: str | None, **talk: Any) -> int:
    """Talk to a model.

    MODEL is a GGUF file, org/name[:quant] of Hugging Face, or an id of the configuration. Without it the only model
    that a running daemon has loaded is meant, or else the first of [[default_models]]. A line is sent by Enter; /help
    lists the commands; Ctrl-C stops a reply; Ctrl-D leaves.
    """
    from neuron_service.cli.chat import TalkOptions, chat_with

    return chat_with(TalkOptions(config=options.config, log_level=options.log_level, model=model, **talk))
