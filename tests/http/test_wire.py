"""What may come before a request is one: nobody's bytes are kept without end, and nobody is waited for without end."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from broker.http.wire import HEAD_BYTES, Wire
from tests.http.conftest import Serve

BEGIN = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"


def connection(serve: Serve) -> socket.socket:
    """To a server that asks for tokens; no token is shown."""
    return socket.create_connection(("127.0.0.1", serve(tokens="viewer:viewer-token-0000000").port), timeout=20)


def read_to_the_end(connected: socket.socket) -> bytes:
    """All that the server says until it closes."""
    told = b""
    try:
        while piece := connected.recv(65536):
            told += piece
    except ConnectionResetError:
        pass  # it closed with some of ours unread
    return told


@pytest.mark.parametrize("piece", [b"a" * 65536, b"a:b\r\n" * 10_000], ids=["one header", "many headers"])
def test_a_head_without_end_is_cut(serve: Serve, piece: bytes) -> None:
    with connection(serve) as connected:
        sent = 0
        connected.sendall(BEGIN + b"X: ")
        with contextlib.suppress(OSError):  # it was cut
            while sent < 20_000_000:
                connected.sendall(piece)
                sent += len(piece)
                time.sleep(0.001)
        assert sent < 20_000_000  # long before: what is under way in the kernel comes on top


def test_a_head_that_is_too_long_is_told_so(serve: Serve) -> None:
    with connection(serve) as connected:
        connected.sendall(BEGIN)
        with contextlib.suppress(OSError):  # it was cut meanwhile
            for _ in range(HEAD_BYTES // 4096 + 2):
                connected.sendall(b"X: " + b"a" * 4091 + b"\r\n")
                time.sleep(0.01)  # in pieces, as the first one is not counted
        assert read_to_the_end(connected).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("begin", [b"", b"GET /hea", BEGIN, b"\r\n"])
def test_who_does_not_ask_is_let_go(serve: Serve, monkeypatch: pytest.MonkeyPatch, begin: bytes) -> None:
    monkeypatch.setattr(Wire, "head_seconds", 0.3)
    with connection(serve) as connected:
        connected.sendall(begin)
        assert read_to_the_end(connected) == b""


def test_a_head_in_pieces_and_a_connection_that_is_kept_are_fine(serve: Serve) -> None:
    with connection(serve) as connected:
        for _ in range(3):
            for byte in BEGIN + b"\r\n":
                connected.sendall(bytes([byte]))
            told = b""
            while b'{"ok":true}' not in told:
                told += connected.recv(4096)
            assert told.startswith(b"HTTP/1.1 200 ")


def test_an_answer_may_take_longer_than_a_head(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Wire, "head_seconds", 0.3)
    http = serve().client()
    with http.stream("GET", "/api/live") as answer:
        pieces = answer.iter_raw()
        began = time.monotonic()
        while time.monotonic() - began < 2:
            assert next(pieces)
