"""`neuron doctor`."""

import click

from neuron_service.cli.options import ConfigOptions, json_option, with_config

__all__ = ("doctor",)


@click.command()
@json_option
@with_config(log_level="error")
def doctor(options: ConfigOptions, *, as_json: bool) -> int:
    """Check whether this host can serve: driver, llama.cpp, disk, configuration, port, rights, limits, clock."""
    from neuron_service.cli.doctor import run_doctor

    return run_doctor(options, as_json=as_json)
