"""The model that a person means, loaded in this process with the configuration of this machine."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from neuron_lib.config import Config
from neuron_lib.errors import ConfigError
from neuron_service.cli.configuration import command_config
from neuron_service.cli.failures import sentence_and_status
from neuron_service.cli.named_models import with_models
from neuron_service.cli.options import ConfigOptions
from neuron_service.cli.progress_line import ProgressLine
from neuron_service.cli.talk.in_process import InProcess, in_process
from neuron_service.cli.talk.pieces import SpeakerFailed

__all__ = ("local_model",)


@contextmanager
def local_model(
    options: ConfigOptions, environ: Mapping[str, str], model: str | None, *, seats: int
) -> Iterator[InProcess]:
    """Load a model for the block; without `model` the first of `default_models`. Raises `SpeakerFailed`."""
    config, environ = _read(options, environ, model)
    spec = config.default_models[0]
    with ExitStack() as loaded:
        with ProgressLine(sys.stderr, label=spec.model_id) as line:
            speaker = loaded.enter_context(in_process(config, environ, spec, seats=seats, report=line.report))
        yield speaker


def _read(options: ConfigOptions, environ: Mapping[str, str], model: str | None) -> tuple[Config, Mapping[str, str]]:
    """The configuration, in which the model is the first of `default_models`, and the environment."""
    try:
        config, environ = command_config(options, environ)
        config = with_models(config, [] if model is None else [model], folder=Path.cwd())
    except ConfigError as error:
        sentence, status = sentence_and_status(error)
        raise SpeakerFailed(sentence, exit_status=status) from error
    if not config.default_models:
        raise SpeakerFailed(
            "no neuron runs here and no model is configured; name a model: a GGUF file or org/name[:quant]",
            exit_status=os.EX_USAGE,
        )
    return config, environ
