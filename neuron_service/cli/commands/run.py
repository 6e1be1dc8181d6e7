"""`neuron run`."""

from collections.abc import Sequence
from typing import Any

import click

from neuron_service.cli.commands.chat import with_talk
from neuron_service.cli.completion import complete_models_and_files
from neuron_service.cli.options import ConfigOptions, json_option, with_config

__all__ = ("run",)


@click.command()
@click.argument("model", shell_complete=complete_models_and_files)
@click.argument("prompt", nargs=-1)
@with_talk
@json_option
@with_config()
def run(options: ConfigOptions, *, model: str, prompt: Sequence[str], as_json: bool, **talk: Any) -> int:
    """Ask a model one thing, or talk to it if there is no PROMPT.

    MODEL is a GGUF file, org/name[:quant] of Hugging Face, or an id of the configuration. What is piped into the
    command follows the PROMPT. The model of a daemon that runs is asked; without one, and for a file, the model is
    loaded for this command.
    """
    from neuron_service.cli.chat import TalkOptions, run_model

    talk_options = TalkOptions(config=options.config, log_level=options.log_level, model=model, **talk)
    return run_model(talk_options, prompt, as_json=as_json)
