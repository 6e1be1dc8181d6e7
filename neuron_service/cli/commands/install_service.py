"""`neuron install-service`."""

from pathlib import Path

import click

__all__ = ("install_service",)


def _absolute(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    del context
    if path is not None and not path.is_absolute():
        raise click.BadParameter(f"{str(path)!r} is not an absolute path", param=parameter)
    return path


@click.command()
@click.option("--user", is_flag=True, help="Make a service of your own, without root, instead of one of the host.")
@click.option("--now", is_flag=True, help="Enable the service, and start it.")
@click.option("--undo", is_flag=True, help="Stop the service, and delete the files that nobody has changed.")
@click.option("--dry-run", is_flag=True, help="Show each step and do nothing.")
@click.option(
    "--program",
    type=click.Path(path_type=Path),
    callback=_absolute,
    metavar="PATH",
    help="The program that the service runs. Default: this one.",
)
@click.option(
    "--root",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    callback=_absolute,
    default=Path("/"),
    metavar="FOLDER",
    help="The top folder of an image of a host. Default: /.",
)
def install_service(*, user: bool, now: bool, undo: bool, dry_run: bool, program: Path | None, root: Path) -> int:
    """Make neuron a service of systemd, or undo that.

    The unit, its user, the rights of its files and an example of a configuration are put in place.
    """
    if undo and now:
        raise click.UsageError("--undo stops the service, so it cannot be used with --now")
    if user and root != Path("/"):
        raise click.UsageError("--root is about a service of a host, so it cannot be used with --user")
    from neuron_service.cli.install_service import InstallOptions
    from neuron_service.cli.install_service import install_service as install

    return install(
        InstallOptions(is_user=user, starts=now, undoes=undo, only_shows=dry_run, program=program, root=root)
    )
