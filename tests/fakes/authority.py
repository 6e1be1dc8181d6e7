"""Certificates of an authority that exists for one test, as files."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path

import trustme

from neuron_service.http.certificates import Certificates, tls_context

__all__ = ("Authority",)


@dataclass(slots=True)
class Authority:
    """Signs certificates, and writes them into `folder`, which exists."""

    folder: Path
    _ca: trustme.CA = field(default_factory=trustme.CA)

    @property
    def ca(self) -> Path:
        path = self.folder / "ca.pem"
        self._ca.cert_pem.write_to_path(path)
        return path

    def sign(self, name: str, *, file: str) -> tuple[Path, Path]:
        """The paths of a certificate for `name`, and of its key. Earlier files of the same `file` are replaced."""
        issued = self._ca.issue_cert(name, "127.0.0.1", common_name=name)
        cert, key = self.folder / f"{file}.pem", self.folder / f"{file}.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        return cert, key

    def server(self, name: str = "localhost", *, client_ca: Path | None = None) -> ssl.SSLContext:
        """The context of a server with a new certificate for `name`."""
        cert, key = self.sign(name, file="server")
        return tls_context(cert=cert, key=key, client_ca=client_ca)

    def certificates(self, name: str = "localhost", *, client_ca: Path | None = None) -> Certificates:
        return Certificates(self.server(name, client_ca=client_ca))

    def client(self, name: str | None = None) -> ssl.SSLContext:
        """The context of a client that trusts this authority, with a certificate for `name` if one is given."""
        context = ssl.create_default_context(cafile=self.ca)
        if name is not None:
            context.load_cert_chain(*self.sign(name, file="client"))
        return context
