"""Who may talk to the ledger, and over what: TLS, users with few rights, a socket file; and URLs that say so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from broker import AsyncBroker, Broker, InvalidRequest, PoolUnavailable
from broker.acl import rules
from broker.connection import parse_url
from tests.deploy.scenario import publish, walk, walk_async, wrongs
from tests.deploy.servers import HOST, Server, TlsFront, free_port, until
from tests.deploy.versions import acl_version

#: Rights of a user who may do everything in a pool.
NEEDED = " ".join(rules("broker", "default", server=acl_version()))


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a file of users: nobody without a password."""
    file = tmp_path_factory.mktemp("acl") / "users.acl"
    file.write_text(
        f"user default off\nuser admin on >admin ~* &* +@all\nuser gpu on >p@ss:w/rd {NEEDED}\n"
        f"user blind on >blind {NEEDED} -info\nuser reader on >reader {NEEDED} -evalsha -eval\n"
        f"user elsewhere on >elsewhere {' '.join(rules('broker', 'other', server=acl_version()))}\n"
    )
    with Server({"aclfile": file}, user=("admin", "admin")) as server:
        yield server


@pytest.mark.parametrize("user", ["gpu:p%40ss%3Aw%2Frd", "blind:blind"])
async def test_a_user_with_few_rights_does_everything(guarded: Server, user: str) -> None:
    guarded.client.flushall()
    guarded.client.script_flush()
    url = f"redis://{user}@{guarded.address}/0"
    with Broker.from_url(url) as broker:
        walk(broker, "a")
        publish(broker, "GPU-b")
        async with AsyncBroker.from_url(url) as again:
            await walk_async(again, "b")
    with Broker.from_url(f"redis://admin:admin@{guarded.address}/0") as admin:
        assert wrongs(admin) == []
    assert guarded.client.acl_log() == [] or user.startswith("blind"), "nothing was tried that was not allowed"


@pytest.mark.parametrize(
    ("user", "match"),
    [
        ("gpu:wrong", "USER:PASSWORD"),
        ("reader:reader", "may not"),
        ("elsewhere:elsewhere", "may not"),
        ("", "USER:PASSWORD"),
    ],
)
async def test_a_user_who_may_not_is_told_and_no_password_is_shown(guarded: Server, user: str, match: str) -> None:
    url = f"redis://{user}@{guarded.address}/0" if user else guarded.url
    with Broker.from_url(url) as broker, pytest.raises(PoolUnavailable, match=match) as error:
        broker.reap()
    password = user.partition(":")[2]
    assert not password or f":{password}@" not in str(error.value)
    async with AsyncBroker.from_url(url) as again:
        with pytest.raises(PoolUnavailable, match=match):
            await again.reap()


@pytest.fixture
def front(server: Server, certificate: Path) -> Iterator[TlsFront]:
    """TLS before a server."""
    with TlsFront(server.port, certificate) as made:
        yield made


async def test_everything_works_over_tls(front: TlsFront, certificate: Path) -> None:
    url = f"rediss://{HOST}:{front.port}/0?ssl_ca_certs={certificate}"
    with Broker.from_url(url) as broker:
        walk(broker, "a")
        publish(broker, "GPU-b")
        async with AsyncBroker.from_url(url) as again:
            await walk_async(again, "b")
        assert wrongs(broker) == []
    assert front.taken > 2


def test_a_server_whose_certificate_nobody_vouches_for_is_not_talked_to(front: TlsFront) -> None:
    url = f"rediss://{HOST}:{front.port}/0"
    with Broker.from_url(url) as broker, pytest.raises(PoolUnavailable, match="certificate"):
        broker.reap()
    assert front.taken == 0


async def test_everything_works_over_tls_in_a_cluster_and_behind_sentinels(certificate: Path) -> None:
    with ExitStack() as stack:
        port = free_port()
        node = Server({"cluster-enabled": "yes", "cluster-port": free_port(), "cluster-config-file": "nodes.conf"})
        stack.enter_context(node)
        front = stack.enter_context(TlsFront(node.port, certificate))
        # It tells of itself what clients can reach; and a Sentinel names whatever it watches.
        node.client.config_set("cluster-announce-port", front.port)
        node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        until(lambda: node.client.cluster("info")["cluster_state"] == "ok", "a cluster of one")
        sentinel = Server(sentinel=f"sentinel monitor ledger {HOST} {front.port} 1\n")
        sentinel.port = port
        watcher = stack.enter_context(
            TlsFront(stack.enter_context(Server(sentinel=sentinel._sentinel)).port, certificate)
        )
        option = f"?ssl_ca_certs={certificate}"
        for number, url in enumerate((
            f"rediss+cluster://{HOST}:{front.port}{option}", f"rediss+sentinel://{HOST}:{watcher.port}/ledger{option}",
        )):  # fmt: skip
            with Broker.from_url(url) as broker:
                walk(broker, f"a{number}")
                publish(broker, f"GPU-b{number}")
                async with AsyncBroker.from_url(url) as again:
                    await walk_async(again, f"b{number}")
                assert wrongs(broker) == []


async def test_everything_works_over_a_socket_file(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sock"
    with Server({"unixsocket": path}), Broker.from_url(f"unix://{path}?db=1") as broker:
        walk(broker, "a")
        publish(broker, "GPU-b")
        async with AsyncBroker.from_url(f"unix://{path}?db=1") as again:
            await walk_async(again, "b")


async def test_sentinels_and_servers_have_users_of_their_own(guarded: Server) -> None:
    guarded.client.flushall()
    watch = f"sentinel monitor ledger {HOST} {guarded.port} 1\nuser default on >open ~* &* +@all\n"
    with Server(sentinel=watch, user=("default", "open")) as sentinel:
        url = f"redis+sentinel://gpu:p%40ss%3Aw%2Frd@{sentinel.address}/ledger"
        with Broker.from_url(f"{url}?sentinel_password=open") as broker:
            walk(broker, "a")
            assert "open" not in broker.url
            assert "p%40ss" not in broker.url
            publish(broker, "GPU-b")
            async with AsyncBroker.from_url(f"{url}?sentinel_password=open") as again:
                await walk_async(again, "b")
        with Broker.from_url(url) as nobody, pytest.raises(PoolUnavailable, match="sentinel_password"):
            nobody.reap()


def test_what_a_url_says() -> None:
    sentinel = parse_url(
        "redis+sentinel://gpu:p%40ss@one:1,two,[::1]:3/my.ledger/2?sentinel_username=s&socket_timeout=9"
    )
    assert sentinel.kind == "sentinel"
    assert sentinel.service == "my.ledger"
    assert sentinel.seeds == (("one", 1), ("two", 26379), ("::1", 3))
    assert sentinel.options == {"username": "gpu", "password": "p@ss", "db": 2, "socket_timeout": 9.0}
    assert sentinel.seed_options == {"username": "s", "password": None, "socket_timeout": 9.0}
    assert not sentinel.tls
    cluster = parse_url("rediss+cluster://u:p@one,two:7000?ssl_ca_certs=/ca.pem")
    assert cluster.tls
    assert cluster.seeds == (("one", 6379), ("two", 7000))
    assert cluster.seed_options["password"] == "p"
    assert cluster.seed_options["ssl_ca_certs"] == "/ca.pem"


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://one:1", "redis+sentinel://one:1/", "redis+sentinel://one:1/ledger/x", "redis+sentinel:///ledger",
        "redis+sentinel://one:1,/ledger", "redis+sentinel://one:1/a b", "redis+cluster://one:1/2", "redis+cluster://",
        "redis+cluster://one:port", "redis+other://one:1", "http+cluster://one:1", "unix+sentinel:///x/ledger",
        "redis+cluster://user:secret@one:99999",
    ],
)  # fmt: skip
def test_a_url_that_says_nothing_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidRequest, match=r"redis\+sentinel://HOST:PORT") as error:
        Broker.from_url(url)
    assert "secret" not in str(error.value)
    with pytest.raises(InvalidRequest, match="redis_url"):
        AsyncBroker.from_url(url)
