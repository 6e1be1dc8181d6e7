"""Hosts models of another server: a load looks whether the server has the model, and nothing is fetched."""

import os
import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import anyio.to_thread

from neuron_lib.admission.configured import admission_rules
from neuron_lib.errors import LoadFailed
from neuron_lib.harness import ProgressReporter
from neuron_lib.logs import FieldLogger, get_logger
from neuron_lib.remote.engine import RemoteEngine, has_listed, open_remote
from neuron_lib.remote.entry import RemoteEntry, RemoteModel, refuse_what_another_host_decides
from neuron_lib.supervision.restart_policy import RestartPolicy
from neuron_lib.supervision.supervisor import supervise
from neuron_lib.types import LoadProgress, LoadStage, ModelSpec, public_id
from neuron_lib.upstream.address import UpstreamAddress
from neuron_lib.upstream.model import UpstreamModel

__all__ = ("RemoteHarness",)

logger: FieldLogger = get_logger(__name__)

_KEY: Final = re.compile(r"[\x21-\x7e]{1,4096}")
_MOST_KEY_BYTES: Final = 1 << 16
_MOST_DEATHS: Final = 30
"""Within ten minutes. A server that answers, but refuses, is given up after six of them."""
_LONGEST_PAUSE_S: Final = 15.0


class RemoteHarness:
    """A harness of the kind `remote`. The server is looked at as long as a model of it is loaded."""

    def __init__(
        self,
        entry: RemoteEntry,
        *,
        environ: Mapping[str, str] | None = None,
        policy: Callable[[], RestartPolicy] = lambda: RestartPolicy(
            most_deaths=_MOST_DEATHS, longest_pause_s=_LONGEST_PAUSE_S
        ),
    ) -> None:
        """`environ` has the variable of the key. `policy` says when a lost server is asked again."""
        self._policy: Final = policy
        self._entry: Final = entry
        self._environ: Final = os.environ if environ is None else environ

    @property
    def name(self) -> str:
        return self._entry.name

    async def known_capabilities(self, model_id: str) -> tuple[str, ...] | None:
        stated = self._entry.models.get(public_id(model_id))
        return None if stated is None else stated.capabilities

    @asynccontextmanager
    async def open(
        self, spec: ModelSpec, *, model_id: str, report: ProgressReporter
    ) -> AsyncIterator[UpstreamModel[RemoteEngine]]:
        refuse_what_another_host_decides(spec)
        report(LoadProgress(stage=LoadStage.RESOLVING))
        entry = self._entry
        stated = entry.models.get(model_id, RemoteModel())
        if self._has_key and not entry.url.startswith("https:") and not _is_loopback(entry.url):
            logger.warning("the key of a harness travels without encryption", extra={"harness": self.name})
        report(LoadProgress(stage=LoadStage.LOADING))

        @asynccontextmanager
        async def start() -> AsyncIterator[RemoteEngine]:
            address, tls = await self._way(model_id)  # read again for each life: the operator may have mended them
            async with open_remote(entry, address, stated, model_id=model_id, tls=tls) as engine:
                yield engine

        async with supervise(start, model_id=model_id, policy=self._policy()) as supervisor:
            yield UpstreamModel(supervisor, harness_name=self.name, rules=admission_rules(entry.admission))

    @property
    def formats(self) -> tuple[str, ...]:
        """See `neuron_lib.harness.SelectiveHarness`."""
        return (f"what {self._entry.address(model='', token='').shown} has",)

    async def takes(self, spec: ModelSpec) -> bool:
        """Whether the entry or the server names the model. Raises `SourceUnavailable` if the server gives no list."""
        model_id = public_id(spec.model_id)
        if model_id in self._entry.models:
            return True
        address, tls = await self._way(model_id)
        return await has_listed(self._entry, address, model_id=model_id, tls=tls)

    async def _way(self, model_id: str) -> tuple[UpstreamAddress, ssl.SSLContext | None]:
        """The address with the key, and the certificates to believe. Raises `LoadFailed`."""
        stated = self._entry.models.get(model_id, RemoteModel())
        token = await anyio.to_thread.run_sync(self._key, model_id)
        tls = await anyio.to_thread.run_sync(self._tls, model_id)
        return self._entry.address(model=stated.model_name or model_id, token=token), tls

    @property
    def _has_key(self) -> bool:
        return self._entry.api_key_env is not None or self._entry.api_key_file is not None

    def _key(self, model_id: str) -> str:
        """The key for the server, "" for none. Raises `LoadFailed`, which never quotes it. Blocks."""
        entry = self._entry
        if entry.api_key_env is not None:
            place, text = f"the variable {entry.api_key_env}", self._environ.get(entry.api_key_env)
        elif entry.api_key_file is not None:
            place, text = f"the file {entry.api_key_file}", self._read(Path(entry.api_key_file), model_id)
        else:
            return ""
        key = (text or "").strip()
        if not key:
            raise LoadFailed(f"{place} has no key for the harness {self.name}", model_id=model_id)
        if _KEY.fullmatch(key) is None:
            text = f"the key in {place} cannot be sent: it is too long, or has characters that no HTTP header can hold"
            raise LoadFailed(text, model_id=model_id)
        return key

    def _read(self, file: Path, model_id: str) -> str:
        try:
            with file.open("rb") as opened:
                return opened.read(_MOST_KEY_BYTES).decode("latin-1")
        except OSError as error:
            text = f"the key of the harness {self.name} in {file} cannot be read: {error.strerror or error}"
            raise LoadFailed(text, model_id=model_id) from error

    def _tls(self, model_id: str) -> ssl.SSLContext | None:
        """Which certificates are believed. Raises `LoadFailed` for a file without any. Blocks."""
        if not self._entry.url.startswith("https:"):
            return None
        try:
            return ssl.create_default_context(cafile=self._entry.ca_file)
        except (OSError, ssl.SSLError) as error:
            text = f"the authorities of the harness {self.name} in {self._entry.ca_file} cannot be read: {error}"
            raise LoadFailed(text, model_id=model_id) from error


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    return host in {"localhost", "::1"} or host.startswith("127.")
