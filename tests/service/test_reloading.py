import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
from msgspec import UNSET
from msgspec.structs import replace

from neuron_lib.config import Config
from neuron_lib.errors import ConfigError
from neuron_lib.types import ModelSpec, Reload
from neuron_service.reloading import Reloading
from neuron_service.settings import Settings
from neuron_service.systemd import Notifier
from tests.fakes.notify_socket import NotifySocket, notify_socket

pytestmark = pytest.mark.anyio

A = ModelSpec(model_id="org/a", harness="llamacpp")


@dataclass
class Service:
    """A service that is only asked what it would do."""

    wanted: Config = field(default_factory=Config)
    fault: Exception | None = None
    cannot_prepare: Exception | None = None
    in_force: list[Config] = field(default_factory=list)

    def reread(self) -> Settings:
        if self.fault is not None:
            raise self.fault
        return Settings(config=self.wanted, environ={}, log_level="info")

    async def prepare(self, _settings: Settings, _current: Config, wanted: Config) -> Callable[[], None]:
        if self.cannot_prepare is not None:
            raise self.cannot_prepare
        return lambda: self.in_force.append(wanted)


async def report_of(reloading: Reloading) -> Reload:
    """The report of one more reload."""
    await reloading.reload()
    report = reloading.report()
    assert isinstance(report, Reload)
    return report


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def reloading(service: Service) -> Reloading:
    return Reloading(Config(), reread=service.reread, prepare=service.prepare)


async def test_what_was_read_again_is_in_force(service: Service, reloading: Reloading) -> None:
    assert reloading.report() is UNSET
    service.wanted = Config(log_level="debug", port=1)
    report = await report_of(reloading)
    assert (report.error, report.needs_restart) == (None, ("port",))
    assert service.in_force == [reloading.config] == [Config(log_level="debug")]


@pytest.mark.parametrize("fault", [ConfigError("neuron.toml:3: nonsense"), RuntimeError("a bug")])
@pytest.mark.parametrize("place", ["fault", "cannot_prepare"])
async def test_a_fault_leaves_everything_as_it_was_and_is_told(
    service: Service, reloading: Reloading, fault: Exception, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    service.wanted = Config(log_level="debug")
    setattr(service, place, fault)
    report = await report_of(reloading)
    assert str(fault) in (report.error or "")
    assert (service.in_force, reloading.config) == ([], Config())
    (record,) = caplog.records
    assert "everything stays as it was" in record.message
    assert (record.exc_info is None) == isinstance(fault, ConfigError)


async def test_a_fault_of_the_configuration_is_said_as_at_a_start(service: Service, reloading: Reloading) -> None:
    service.fault = ConfigError("neuron.toml: unknown key `foo`")
    service.fault.__cause__ = ValueError("the field foo is not known")
    assert (await report_of(reloading)).error == "neuron.toml: unknown key `foo`"


async def test_a_fault_is_forgotten_with_the_next_reload(service: Service, reloading: Reloading) -> None:
    service.fault = ConfigError("nonsense")
    await report_of(reloading)
    service.fault = None
    assert (await report_of(reloading)).error is None


async def test_a_reload_whose_files_cannot_be_read_to_their_end_is_refused(service: Service) -> None:
    writer = threading.Event()

    def read_a_pipe() -> Settings:
        writer.wait()
        return service.reread()

    reloading = Reloading(Config(), reread=read_a_pipe, prepare=service.prepare, reading_limit_s=0.01)
    report = await report_of(reloading)
    assert report.error == "the files of the configuration could not be read within 0.01 s"
    assert service.in_force == []
    writer.set()


async def test_models_that_are_added_are_given_to_who_waits_for_them(service: Service, reloading: Reloading) -> None:
    service.wanted = Config(default_models=(replace(A, model_id="huggingface:org/a"),))
    assert (await report_of(reloading)).pending == ("org/a",)
    specs, tracker = await reloading.next_added()
    assert specs == service.wanted.default_models
    tracker.start_loading("org/a")
    assert (await report_of(reloading)).pending == ("org/a",)
    tracker.fail_loading("org/a", "no room")
    report = await report_of(reloading)
    assert (report.pending, [failed.model_id for failed in report.failed]) == ((), ["org/a"])


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[NotifySocket]:
    with notify_socket(str(tmp_path / "notify")) as sock:
        yield sock


async def test_systemd_is_told_of_the_beginning_and_of_the_end(
    service: Service, reloading: Reloading, manager: NotifySocket
) -> None:
    service.fault = ConfigError("nonsense")
    with Notifier(manager.address) as notifier:
        async with anyio.create_task_group() as tasks:
            reloading.request()

            def line() -> str:
                tasks.cancel_scope.cancel()
                return "serving"

            tasks.start_soon(reloading.run, notifier, line)
    begun, ended = manager.told()
    assert begun["RELOADING"] == "1"
    assert begun["MONOTONIC_USEC"].isdigit()
    assert ended == {"READY": "1", "STATUS": "serving"}


async def test_whoever_follows_the_host_is_told_the_outcome_of_each_reload(
    service: Service, manager: NotifySocket
) -> None:
    told: list[Reload] = []
    reloading = Reloading(Config(), reread=service.reread, prepare=service.prepare, tell=told.append)
    service.fault = ConfigError("nonsense")
    with Notifier(manager.address) as notifier:
        async with anyio.create_task_group() as tasks:
            reloading.request()

            def line() -> str:
                tasks.cancel_scope.cancel()
                return "serving"

            tasks.start_soon(reloading.run, notifier, line)
    assert told == [reloading.report()]
    assert told[0].error == "nonsense"
