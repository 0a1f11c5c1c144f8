"""Deployments of the ledger's server, started once for the tests of each file."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.servers import Cluster, Sentinels, Server


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Three primaries."""
    with Cluster() as made:
        yield made


@pytest.fixture(scope="module")
def _sentinels() -> Iterator[Sentinels]:
    with Sentinels() as made:
        yield made


@pytest.fixture
def sentinels(_sentinels: Sentinels) -> Sentinels:
    """A primary, two replicas in step, three Sentinels, whatever the test before did to them."""
    _sentinels.heal()
    return _sentinels


@pytest.fixture
def server() -> Iterator[Server]:
    """A single server of one test's own."""
    with Server() as made:
        yield made


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key in the same file."""
    folder = tmp_path_factory.mktemp("tls")
    pem = folder / "server.pem"
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2",
            "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1",
            "-keyout", folder / "key.pem", "-out", folder / "cert.pem",
        ],
        check=True, capture_output=True,
    )  # fmt: skip
    pem.write_text((folder / "key.pem").read_text() + (folder / "cert.pem").read_text())
    return pem
