"""What each role may do on a real server: every script, every reading, every key, and the commands that nobody has."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import pytest
import redis
import rq

from broker import Broker, LeaseNotFound, PoolUnavailable, acl
from broker.fsck import differences
from broker.ledger import scripts
from broker.ledger.keys import ORDER, Keys
from broker.units import GIB
from tests.deploy.guarded import OTHER, POOL, ROLES, Guarded

KEYS = Keys(POOL)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Two pools on a server, and a user for each role of each."""
    with Guarded(tmp_path_factory.mktemp("acl")) as made:
        yield made


# -- scripts -----------------------------------------------------------------------------------------------------------

#: Arguments with which each script does its work in the pool that `Guarded.fill` makes; TOKEN is the token of `held`.
CALLS: dict[str, tuple[Any, ...]] = {
    "acquire": ("new", str(GIB // 4), 30000, "", "", 0, "default", "me", "", "", "", "0"),
    "adopt": ("adopted", 4242, GIB, 30000, "h1", "GPU-a", "default", "me", ""),
    "attend": ("worker-1", "h1", "photos", "sit", 5000, 60000),
    "cancel": ("waits", ""),
    "claim": ("held", "worker-1"),
    "configure": ("1", "monitor_interval", "4"),
    "drain": ("gpu", "GPU-a"),
    "explain": ("lease", "waits", "0"),
    "forget": ("enhance",),
    "hello": ("0123456789abcdef",),
    "learn": ("enhance", "-", "run-2", "done", 4 * GIB, 0, 3 * GIB),
    "leave": ("h1",),
    "publish_sample": ("h2", 3000, "OK", "", "test", 0, 0, 0, "life-1", 1, "", "", "", "", "", ""),
    "reap": (),
    "register": ("lost", 1 << 40, "GPU-a", GIB // 4, 30000, "default", "me", "", 0, "", 0, 0, "", ""),
    "release": ("held", "TOKEN"),
    "renew": ("held", "TOKEN", ""),
    "repair": ("gpu", "GPU-a"),
    "resize": ("held", "TOKEN", 2 * GIB, "0", ""),
    "revoke": ("held", 1000, "why", ""),
    "start": ("held", "TOKEN", 4243, "1"),
    "tenant": ("studio", "", "2000"),
    "undrain": ("gpu", "GPU-a"),
}

#: Whom the server refuses. All others run it to its end: who may run one script may run all, but where the keys differ.
REFUSED = {name: {"viewer", "producer"} for name in CALLS} | {
    "configure": {"viewer", "producer", "agent", "worker"},
    "publish_sample": {"viewer", "producer", "worker"},
    "leave": {"viewer", "producer", "worker"},
    "learn": {"viewer", "producer", "agent"},
    "forget": {"viewer", "producer", "agent"},
}


def test_the_table_has_every_script() -> None:
    assert set(CALLS) == set(scripts.names())


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", CALLS)
def test_every_script_is_run_to_its_end_or_refused_before_it_wrote_anything(
    guarded: Guarded, name: str, role: str
) -> None:
    token = guarded.fill()
    argv = [token if word == "TOKEN" else word for word in CALLS[name]]
    before = guarded.dump()
    with guarded.broker(role) as broker:
        if role in REFUSED[name]:
            with pytest.raises(PoolUnavailable, match="may not"):
                broker.call(name, *argv)
            assert guarded.dump() == before, "a script that is refused half-way has written nothing"
            return
        with suppress(LeaseNotFound) if name == "claim" else nullcontext():  # nothing was handed to that worker
            broker.call(name, *argv)
    assert guarded.denied() == []
    with guarded.broker("broker") as broker:
        assert differences(broker) == []


# -- readings ----------------------------------------------------------------------------------------------------------

READINGS: dict[str, Callable[[Broker], object]] = {
    "abandoned": lambda b: b.abandoned(["held"]),
    "available": lambda b: b.available(),
    "config": lambda b: b.config("GPU-a"),
    "epoch": lambda b: b.epoch(),
    "events": lambda b: b.events(),
    "explain": lambda b: b.explain("waits"),
    "follow": lambda b: next(b.follow("0")),
    "fsck": differences,
    "get": lambda b: b.get("held"),
    "gpus": lambda b: b.gpus(),
    "hardware": lambda b: b.hardware("GPU-a"),
    "history": lambda b: b.history("GPU-a"),
    "hosts": lambda b: b.hosts(),
    "leases": lambda b: b.leases(),
    "of a job": lambda b: b.explain("job"),
    "peak_bytes": lambda b: b.peak_bytes("held") == 0,
    "processes": lambda b: b.processes("GPU-a"),
    "recent_events": lambda b: b.recent_events(5),
    "right_size": lambda b: b.right_size("enhance", "1GiB"),
    "sizes": lambda b: b.sizes(),
    "speed": lambda b: b.speed("GPU-a"),
    "tenants": lambda b: b.tenants(),
    "throttle": lambda b: b.throttle(),
    "trend": lambda b: b.trend("GPU-a"),
    "unknown": lambda b: b.unknown(["nobody"]),
    "waiters": lambda b: b.waiters(),
}
#: Beside the producer, who reads nothing of the ledger.
NOT_READ = {
    "explain": {"viewer"}, "of a job": {"viewer"},  # a script
    "fsck": {"viewer", "worker", "agent"},  # SCAN tells the names of everybody's keys
    "sizes": {"agent"}, "right_size": {"agent"},
}  # fmt: skip


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("reading", READINGS)
def test_every_reading_is_answered_or_refused_as_its_role_says(guarded: Guarded, reading: str, role: str) -> None:
    guarded.fill()
    with guarded.broker(role) as broker:
        if role == "producer" or role in NOT_READ.get(reading, set()):
            with pytest.raises(PoolUnavailable, match="may not"):
                READINGS[reading](broker)
        else:
            assert READINGS[reading](broker) is not None
            assert guarded.denied() == []


def test_a_viewer_is_greeted_without_a_script_and_leaves_no_trace(guarded: Guarded) -> None:
    guarded.fill()
    before = guarded.dump()
    with guarded.broker("viewer") as broker:
        for name, reading in READINGS.items():
            if "viewer" not in NOT_READ.get(name, set()):
                reading(broker)
    assert guarded.denied() == []
    assert guarded.dump() == before


def test_a_viewer_goes_on_reading_where_another_server_took_over_and_its_hello_is_refused(guarded: Guarded) -> None:
    guarded.fill()
    guarded.admin.hset(KEYS.ledger, "primary", "another")
    with guarded.broker("viewer") as broker:
        assert [lease.id for lease in broker.leases()] == ["held"]
    assert guarded.denied() == [f"{acl.user_name(POOL, 'viewer')} toplevel evalsha"]
    with guarded.broker("worker") as broker:
        assert broker.reap() > 0
    guarded.forget_denied()
    with guarded.broker("viewer") as broker:
        assert broker.leases()
    assert guarded.denied() == []


# -- keys --------------------------------------------------------------------------------------------------------------

#: r: read; w: written; -: neither. A key's name is completed with x.
RIGHTS = """
                   agent worker broker viewer producer
ledger             rw    rw     rw     r      -
config             r     r      rw     r      -
gpus               rw    rw     rw     r      -
gpu:x              rw    rw     rw     r      -
free               rw    rw     rw     r      -
free@x             rw    rw     rw     r      -
fresh              rw    rw     rw     r      -
capacity           rw    rw     rw     r      -
lease:x            rw    rw     rw     r      -
leases             rw    rw     rw     r      -
ended:x            rw    rw     rw     r      -
waiter:x           rw    rw     rw     r      -
waiters            rw    rw     rw     r      -
waiting            rw    rw     rw     r      -
wake:x             rw    rw     rw     r      -
events             rw    rw     rw     r      -
metrics:x          rw    r      rw     r      -
hosts              rw    rw     rw     r      -
host:x             rw    rw     rw     r      -
tenants            rw    rw     rw     r      -
tenant:x           rw    rw     rw     r      -
classes            rw    rw     rw     r      -
wide               rw    rw     rw     r      -
reserved           rw    rw     rw     r      -
lines:x            rw    rw     rw     r      -
line:x             rw    rw     rw     r      -
groups             rw    rw     rw     r      -
stale              rw    rw     rw     r      -
hardware:x         rw    rw     rw     r      -
crew:x             rw    rw     rw     r      -
size:x             -     rw     rw     r      -
sizes              -     rw     rw     r      -
http:x             -     -      rw     r      -
RQ rq:queue:x      -     rw     -      -      rw
RQ rq:job:x        -     rw     -      -      rw
OTHER ledger       -     -      -      -      -
OTHER lease:x      -     -      -      -      -
OTHER config       -     -      -      -      -
ELSE x             -     -      -      -      -
"""
_LINES = [line.rsplit(None, 5) for line in RIGHTS.strip().splitlines()[1:]]
_ROOTS = {"RQ": "", "OTHER": Keys(OTHER).root, "ELSE": "somebody:"}


def _key(name: str) -> str:
    where, _, rest = name.strip().rpartition(" ")
    return _ROOTS.get(where, KEYS.root) + rest


@pytest.mark.parametrize("line", _LINES, ids=lambda line: line[0].strip())
def test_every_key_is_read_and_written_by_whom_the_table_says(guarded: Guarded, line: list[str]) -> None:
    key = _key(line[0])
    for role, expected in zip(ROLES, line[1:], strict=True):
        user = acl.user_name(POOL, role)
        found = "".join(
            letter
            for letter, command in (("r", ("EXISTS", key)), ("w", ("EVALSHA", "0" * 40, "1", key)), ("w", ("DEL", key)))
            if guarded.admin.execute_command("ACL", "DRYRUN", user, *command) in ("OK", b"OK")
        )
        assert found.replace("ww", "w") == expected.replace("-", ""), (role, key)


def test_the_table_has_every_key() -> None:
    named = {re.sub(r":x$|@x$", "", line[0].strip()) for line in _LINES}
    assert {name.removesuffix("_prefix") for name in ORDER} - {"root"} <= named


# -- commands ----------------------------------------------------------------------------------------------------------

NOBODYS = [
    "FLUSHALL", "FLUSHDB", "KEYS *", "CONFIG GET *", "CONFIG SET maxmemory 1", "ACL LIST", "ACL SETUSER x", "ACL LOAD",
    "DEBUG SLEEP 0", "SHUTDOWN", "MONITOR", "SCRIPT FLUSH", "SCRIPT KILL", "FUNCTION LOAD x", "CLIENT KILL 1.2.3.4:5",
    "CLIENT LIST", "CLIENT NO-EVICT ON", "CLIENT PAUSE 1", "SAVE", "BGREWRITEAOF", "REPLICAOF NO ONE", "CLUSTER RESET",
    "FAILOVER", "DUMP x", "RESTORE x 0 y", "MIGRATE a 1 x 0 1", "SWAPDB 0 1", "SELECT 1", "MOVE x 1", "COPY x y",
    "SORT x", "SLOWLOG GET", "LATENCY LATEST", "MEMORY USAGE x", "MODULE LIST", "RANDOMKEY", "DBSIZE", "ROLE",
    "PSUBSCRIBE *", "LASTSAVE", "PSYNC ? -1", "SYNC", "OBJECT ENCODING x", "TYPE x", "APPEND x y", "FCALL f 0",
]  # fmt: skip


@pytest.mark.parametrize("command", NOBODYS)
def test_nobody_has_a_command_that_no_role_uses(guarded: Guarded, command: str) -> None:
    for role in ROLES:
        told = guarded.admin.execute_command("ACL", "DRYRUN", acl.user_name(POOL, role), *command.split())
        assert told not in ("OK", b"OK"), (role, command)


def test_a_role_has_every_command_of_the_scripts_and_none_that_nothing_uses() -> None:
    calls = {
        word.lower()
        for name in scripts.names()
        for line in scripts.script(name).text.splitlines()
        if "call(" in line or " read = " in line or "read," in line
        for word in re.findall(r"'([A-Z]{3,})'", line)
        if word.lower() in _KNOWN
    }
    mine = set(f"{acl._READ} {acl._SCRIPT} {acl._WAIT} {acl._LEARN} {acl._LEAVE}".split())
    assert calls <= mine | set(acl._GREETING.split()), calls - mine
    of_python = _words_of(Path(acl.__file__).parent, r'\(\s*f?"([A-Z]{3,})"')
    assert mine <= calls | of_python | {"eval", "evalsha"}, mine - calls - of_python


def test_a_worker_and_a_producer_have_every_command_of_rq_and_none_that_it_does_not_use() -> None:
    used = _methods_of(Path(rq.__file__).parent) | _words_of(Path(rq.__file__).parent, r"""redis\.call\(['"](\w+)""")
    used |= _methods_of(Path(acl.__file__).parents[1] / "worker_hooks")
    used |= _words_of(Path(acl.__file__).parents[1] / "worker_hooks", r"""redis\.call\('(\w+)""")
    granted = set(f"{acl._RQ} {acl._RQ_WORKER}".split())
    everything = granted | set(acl._GREETING.split())
    assert used <= everything, used - everything
    of_redis_py = {
        "eval",
        "evalsha",
        "script|exists",
        "script|load",
        "unsubscribe",
        "discard",
        "unwatch",
        "multi",
        "exec",
    }
    assert granted <= used | of_redis_py, granted - used - of_redis_py


_SPELT = {
    "delete": "del", "execute": "exec", "client_setname": "client|setname", "client_info": "client|info",
    "client_unblock": "client|unblock",
}  # fmt: skip
#: Methods that are another class's in RQ, and the fallback for servers older than Redis 6.2.
_NOT_REDIS = {"client_list", "reset"}
_KNOWN = {
    name.lower()
    for name in dir(redis.Redis)
    if not name.startswith("_") and name not in ("pipeline", "close", "pubsub", "lock", "register_script")
} | {"del", "multi", "exec", "discard"}


def _words_of(folder: Path, pattern: str) -> set[str]:
    files = [*folder.rglob("*.py"), *folder.rglob("*.lua")]
    return {word.lower() for file in files for word in re.findall(pattern, file.read_text())} & _KNOWN


def _methods_of(folder: Path) -> set[str]:
    """Redis's commands among the methods that are called on something named as a connection or a pipeline is."""
    found = set()
    for file in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                on = ast.unparse(node.func.value).rpartition(".")[2]
                if re.fullmatch(r"_?(connection|conn|redis|pipeline|pipe|p|pubsub)", on):
                    found.add(node.func.attr)
    spelt = {_SPELT.get(name, name) for name in found & (_KNOWN | set(_SPELT)) - _NOT_REDIS}
    return spelt | ({"subscribe"} & found)
