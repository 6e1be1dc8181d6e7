import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from neuron_lib.errors import ConfigError
from neuron_service.http.certificates import tls_context
from tests.fakes.authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def test_a_client_is_asked_for_a_certificate_only_if_there_is_an_authority_for_it(authority: Authority) -> None:
    assert authority.server().verify_mode is ssl.CERT_NONE
    assert authority.server(client_ca=authority.ca).verify_mode is ssl.CERT_REQUIRED


def test_versions_of_tls_that_are_broken_are_not_spoken(authority: Authority) -> None:
    assert authority.server().minimum_version is ssl.TLSVersion.TLSv1_2


@pytest.mark.parametrize("name", ["tls_cert", "tls_key", "tls_client_ca"])
@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "No such file or directory"), ("", "PEM"), ("t0p-secret", "PEM")],
    ids=["missing", "empty", "prose"],
)
def test_a_file_that_cannot_be_used_is_named_and_not_shown(
    authority: Authority, tmp_path: Path, name: str, content: str | None, problem: str
) -> None:
    cert, key = authority.sign("localhost", file="server")
    files = {"tls_cert": cert, "tls_key": key, "tls_client_ca": authority.ca}
    files[name] = tmp_path / "bad.pem"
    if content is not None:
        files[name].write_text(content)
    with pytest.raises(ConfigError) as caught:
        tls_context(cert=files["tls_cert"], key=files["tls_key"], client_ca=files["tls_client_ca"])
    assert f"`{name}` {files[name]}" in caught.value.message
    assert problem in caught.value.message
    assert "t0p-secret" not in caught.value.message


def test_a_key_of_another_certificate_is_refused(authority: Authority) -> None:
    cert, _ = authority.sign("localhost", file="one")
    _, key = authority.sign("localhost", file="two")
    with pytest.raises(ConfigError, match="do not belong together"):
        tls_context(cert=cert, key=key, client_ca=None)


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(authority: Authority) -> None:
    cert, key = authority.sign("localhost", file="server")
    secret = load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        secret.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, BestAvailableEncryption(b"secret"))
    )
    with pytest.raises(ConfigError, match="encrypted"):
        tls_context(cert=cert, key=key, client_ca=None)
