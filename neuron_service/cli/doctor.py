"""`neuron doctor`: looks at this host as the user who runs it, and says what keeps the service from working."""

import contextlib
import errno
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import anyio
import msgspec

from neuron_lib.config import Config, load_config, store_settings
from neuron_lib.discovery.host_memory import now_cpus, now_memory
from neuron_lib.discovery.probe import Found, find_devices
from neuron_lib.discovery.tool import run_tool
from neuron_lib.errors import ConfigError
from neuron_lib.sources.configured import model_store
from neuron_service.backends import BACKENDS
from neuron_service.cli import findings, host_facts
from neuron_service.cli.config_check import find_model_faults
from neuron_service.cli.configuration import config_path, log_level
from neuron_service.cli.findings import CacheFacts, Finding, PortFacts, Status
from neuron_service.cli.options import ConfigOptions, ServeOptions
from neuron_service.cli.running_service import ServiceSilent, WantsCertificate, WantsKey, is_running
from neuron_service.cli.screen import print_line
from neuron_service.cli.service_packages import missing_packages
from neuron_service.cli.service_settings import read_settings
from neuron_service.http.cap import raise_descriptor_limit
from neuron_service.log_config import configure_logging

__all__ = ("examine", "run_doctor")

_TOOL_LIMIT_S: Final = 20.0
"""How long a vendor's tool may take. A driver that is not kept loaded needs more than 5 s."""
_MARKS: Final = {Status.OK: "ok", Status.WARNING: "warning", Status.FAILED: "FAILED", Status.SKIPPED: "-"}
_STYLES: Final = {Status.OK: "good", Status.WARNING: "warning", Status.FAILED: "bad", Status.SKIPPED: "dim"}


def run_doctor(options: ConfigOptions, *, as_json: bool) -> int:
    """Check this host and print the findings. Returns the exit status: 0 unless a check has failed."""
    with contextlib.suppress(ConfigError):  # the check of the configuration says it
        configure_logging(log_level(options, os.environ, default="error"), environ=os.environ)
    found = []
    for finding in examine(options, os.environ):
        found.append(finding)
        if not as_json:
            _show(finding)  # at once, because later checks may take a while
    status = findings.exit_status(found)
    if as_json:
        checks = msgspec.to_builtins(found)
        print(json.dumps({"status": findings.worst(found), "exit_status": status, "checks": checks}))
    return status


def examine(options: ConfigOptions, environ: Mapping[str, str]) -> Iterator[Finding]:
    """The findings about this host, in the order in which somebody should read them.

    A configuration that is refused is replaced by the defaults for the other checks.
    """
    python = sys.executable
    config, problem = _configuration(options, environ)
    path = config_path(options)
    yield findings.judge_configuration("the default configuration" if path is None else str(path), problem)
    if problem is None:
        yield from findings.judge_models(list(find_model_faults(config, environ)))
    yield findings.judge_packages(missing_packages(), python)
    devices = anyio.run(partial(find_devices, run=partial(run_tool, deadline_s=_TOOL_LIMIT_S)))
    yield findings.judge_driver(devices, has_nvidia_card=host_facts.has_nvidia_card())
    build = host_facts.ask_build(environ)
    yield findings.judge_binding(
        build,
        devices,
        python=python,
        wants_gpu=findings.wants_gpu(config),
        version=_binding_version(),
    )
    yield from findings.judge_rpc(build, anyio.run(host_facts.ask_rpc_servers, config))
    yield from (findings.judge_cache(source, _cache_facts(place)) for source, place in _caches(config, environ))
    yield findings.judge_port(_port_facts(config, environ))
    yield from _rights(config, path, devices)
    yield from findings.judge_limits(descriptors=raise_descriptor_limit(), memory=now_memory(), cpus=now_cpus())
    yield findings.judge_clock(
        behind_s=host_facts.clock_is_behind_s(time.time(), host_facts.installed_files()),
        is_synchronised=host_facts.clock_is_synchronised(),
    )


def _configuration(options: ConfigOptions, environ: Mapping[str, str]) -> tuple[Config, str | None]:
    """The configuration that the service would have, and why it would refuse it."""
    as_at_a_start = ServeOptions(config=options.config, log_level=options.log_level, check_config=True)
    try:
        settings = read_settings(as_at_a_start, environ)
    except ConfigError as error:
        return load_config(None, {}, sections=BACKENDS), str(error)
    return settings.config, None


def _binding_version() -> str | None:
    try:
        return version("llama-cpp-python")
    except PackageNotFoundError:
        return None


def _caches(config: Config, environ: Mapping[str, str]) -> Iterator[tuple[str, Path]]:
    """Each cache once, with the first of its sources."""
    shown: dict[Path, str] = {}
    for settings in store_settings(config).values():
        for source, place in model_store(settings, models=config.models, environ=environ).cache_dirs.items():
            shown.setdefault(place, source)
    yield from ((source, place) for place, source in shown.items())


def _cache_facts(directory: Path) -> CacheFacts:
    place, is_hidden = host_facts.nearest_that_exists(directory)
    return CacheFacts(
        directory=str(directory),
        place=str(place),
        exists=place == directory,
        is_hidden=is_hidden,
        is_readable=os.access(place, os.R_OK | os.X_OK),
        is_writable=os.access(place, os.W_OK | os.X_OK) and not os.statvfs(place).f_flag & os.ST_RDONLY,
        free_bytes=shutil.disk_usage(place).free,
    )


def _port_facts(config: Config, environ: Mapping[str, str]) -> PortFacts:
    error = host_facts.listen_error(config.host, config.port)
    facts = PortFacts(host=config.host, port=config.port, error=error)
    if error != errno.EADDRINUSE:
        return facts
    try:
        is_neuron, problem = is_running(config, environ), "nothing answers there"
    except (WantsKey, WantsCertificate):
        is_neuron, problem = True, ""
    except ServiceSilent as silent:
        is_neuron, problem = False, str(silent)
    return msgspec.structs.replace(facts, is_neuron=is_neuron, problem=problem)


def _rights(config: Config, path: Path | None, devices: Found) -> Iterator[Finding]:
    user = host_facts.user_name()
    named = [path, *(place for entry in config.models for place in (entry.path, entry.chat_template))]
    unreadable = host_facts.unreadable([Path(each).expanduser() for each in named if each is not None])
    yield from findings.judge_files(unreadable, user)
    yield findings.judge_nodes(devices, host_facts.unusable_nodes(devices), user)


def _show(finding: Finding) -> None:
    print_line((f"{_MARKS[finding.status]:<8}", _STYLES[finding.status]), (f"{finding.check:<15}{finding.detail}", ""))
    if finding.fix is not None:
        print(f"{'':<23}fix: {finding.fix}")
