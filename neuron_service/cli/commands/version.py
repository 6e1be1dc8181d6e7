"""`neuron version`."""

import json
import os

import click

from neuron_service.cli.options import json_option

__all__ = ("print_version", "version")


def print_version() -> None:
    """Print the versions of the package and of the commit that it was made from. May call git in a checkout."""
    from neuron_service.version import find_version

    found = find_version(os.environ)
    click.echo(f"neuron {found.package_version} ({found.git_sha})")


@click.command()
@json_option
def version(*, as_json: bool) -> None:
    """Show the version."""
    if not as_json:
        print_version()
        return
    from neuron_service.version import find_version

    found = find_version(os.environ)
    click.echo(json.dumps({"version": found.package_version, "git_sha": found.git_sha}))
