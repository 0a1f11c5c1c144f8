"""The users of a pool's server: one for each role, with the rights that it needs and no more.

Redis cannot tell one script from another: who may run any may run all, and may run commands of his own on the keys that
they need. So a right here is one to a command or to a key; what that leaves open is in ``docs/deployments.md``.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from broker.errors import InvalidRequest
from broker.ledger.keys import ORDER, Keys

#: What every client says on its way to the pool: logging in, finding it, hearing which server it is.
_GREETING = "hello ping info client|setinfo client|id time cluster|slots asking"
#: Commands that only read the ledger's records.
_READ = (
    "exists get hexists hget hgetall hkeys hlen hmget scard sismember smembers xrange xread xrevrange"
    " zcard zcount zmscore zrange zrangebyscore zrank zrevrange zrevrangebyscore zscan zscore"
)
#: Commands of the scripts beyond those: they end what is over and serve who waits, whoever runs them.
_SCRIPT = "evalsha eval del hdel hincrby hscan hset lindex lrem pexpire rpush sadd set srandmember srem xadd zadd zrem"
#: A request that waits sleeps on its list; who learns sizes drops the oldest; who publishes keeps a host's samples.
_WAIT, _LEARN, _LEAVE = "blpop", "zpopmin", "persist"
#: RQ's, of queues, jobs, results, registries and schedules: in Python, in its scripts, in ``worker_hooks/lua``.
_RQ = (
    "blmove blpop del discard eval evalsha exec exists expire get hdel hexists hget hgetall hincrby hincrbyfloat"
    " hlen hmget hscan hset llen lmove lpop lpos lpush lrange lrem multi persist pexpire publish rename rpush sadd"
    " scard script|exists script|load set smembers srem subscribe unsubscribe unwatch watch xadd xlen xread"
    " xrevrange zadd zcard zcount zmscore zpopmin zrange zrangebyscore zrem zremrangebyrank zremrangebyscore"
    " zscore"
)
_RQ_WORKER = "client|info client|setname client|unblock"


@dataclass(frozen=True, slots=True)
class Role:
    """Who talks to the server, in a line; which commands he uses, and which of the pool's keys.

    ``writes`` and ``reads`` are names of ``broker.ledger.keys.ORDER``; ``*`` is everything of the pool. A role that
    runs scripts may also name the prefix that all of them are sent, under which nothing lies.
    """

    about: str
    commands: str
    writes: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    rq: bool = False

    @property
    def runs_scripts(self) -> bool:
        """Whether it takes part in the ledger, beyond reading it."""
        return bool(self.writes)


#: What any script may change on its way, for it ends what is over and serves who waits (laws 3 and 7).
LEDGER = tuple(
    name for name in ORDER if name not in ("root", "metrics_prefix", "hardware_prefix", "size_prefix", "sizes")
)

ROLES: dict[str, Role] = {
    "agent": Role(
        "publishes what a host's GPUs do",
        f"{_GREETING} {_READ} {_SCRIPT} {_LEAVE}",
        writes=(*LEDGER, "metrics_prefix", "hardware_prefix"),
        reads=("config",),
    ),
    "worker": Role(
        "runs RQ jobs and borrows for them; also who borrows by `gpubroker run` or the library",
        f"{_GREETING} {_READ} {_SCRIPT} {_WAIT} {_LEARN} {_RQ} {_RQ_WORKER}",
        writes=(*LEDGER, "hardware_prefix", "size_prefix", "sizes"),
        reads=("config", "metrics_prefix"),
        rq=True,
    ),
    "broker": Role(
        "serves HTTP and acts for operators: `gpubroker serve`, `drain`, `config set`, `doctor`",
        f"{_GREETING} {_READ} {_SCRIPT} {_WAIT} {_LEARN} {_LEAVE} scan",
        writes=("*",),
    ),
    "viewer": Role("reads the pool and changes nothing", f"{_GREETING} {_READ}", reads=("*",)),
    "producer": Role("puts jobs into RQ's queues; knows nothing of the ledger", f"{_GREETING} {_RQ}", rq=True),
    # -- of the server itself, only where they are asked for
    "replica": Role("a replica's own user on its primary (`masteruser`)", "ping psync replconf"),
    "sentinel": Role(
        "a Sentinel's user on the servers that it watches (`sentinel auth-user`)",
        "client|kill client|setname config|rewrite exec info multi ping publish replicaof role script|kill slaveof"
        " subscribe",
    ),
    "admin": Role("a person who looks after the server", "@all"),
}
#: Made where no role is named.
USUAL = ("agent", "worker", "broker", "viewer", "producer")
#: Servers that differ in what they know, the least version of each; and commands that came with it. A server refuses a
#: whole file for a command that it does not know.
SERVERS = {"7.0": frozenset[str](), "7.2": frozenset({"client|setinfo"})}
NEWEST = "7.2"
_HASH = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PREFIX = re.compile(r"[A-Za-z0-9_.:{}-]+", re.ASCII)
_LEAST_PASSWORD = 16


def user_name(pool: str, role: str) -> str:
    """A role's user: ``gpubroker-POOL-ROLE``."""
    return f"gpubroker-{pool}-{role}"


def new_password() -> str:
    """192 random bits, of letters that need no escape in a URL or a shell."""
    return secrets.token_urlsafe(24)


def check_password(field: str, value: object) -> str:
    """A password that somebody chose.

    Raises:
        InvalidRequest: shorter than 16 characters, or with spaces or control characters. It is not repeated.
    """
    if not isinstance(value, str) or len(value) < _LEAST_PASSWORD or not value.isprintable() or " " in value:
        shown = f"a text of {len(value)} characters" if isinstance(value, str) else type(value).__name__
        raise InvalidRequest(field, shown, f"at least {_LEAST_PASSWORD} printable characters without a space")
    return value


def hash_of(password: str) -> str:
    """As the server keeps it, and as it may stand in a file: SHA-256, in hexadecimal."""
    return hashlib.sha256(password.encode()).hexdigest()


def check_hash(field: str, value: object) -> str:
    """The SHA-256 of a password.

    Raises:
        InvalidRequest: not 64 hexadecimal digits, in small letters.
    """
    if not isinstance(value, str) or not _HASH.fullmatch(value):
        raise InvalidRequest(field, "something else", "64 hexadecimal digits, in small letters: a password's SHA-256")
    return value


def rules(role: str, pool: str, rq_prefix: str = "rq", server: str = NEWEST) -> list[str]:
    """A role's rights, word by word as ``ACL SETUSER`` takes them, for servers of that version and newer.

    Raises:
        InvalidRequest: no such role or version, or a name that may not stand in a key.
    """
    keys = Keys(pool)
    if role not in ROLES:
        raise InvalidRequest("role", role, "one of " + ", ".join(ROLES))
    if not _PREFIX.fullmatch(rq_prefix):
        raise InvalidRequest("rq_prefix", rq_prefix, "letters, digits and _ . : - { }, as RQ_KEY_PREFIX")
    if server not in SERVERS:
        raise InvalidRequest("server", server, "one of " + ", ".join(SERVERS))
    this, unknown = ROLES[role], {word for version, new in SERVERS.items() if version > server for word in new}
    patterns = [*_patterns(this, keys), *([f"~{rq_prefix}:*", f"&{rq_prefix}:pubsub:*"] if this.rq else [])]
    if role == "admin":
        patterns = ["~*", "&*"]
    if role == "sentinel":
        patterns = ["&__sentinel__:hello"]
    return [*patterns, "-@all", *(f"+{word}" for word in sorted(set(this.commands.split()) - unknown))]


def _patterns(role: Role, keys: Keys) -> Iterable[str]:
    if "*" in role.writes:
        yield f"%RW~{keys.root}*"
        return
    if "*" in role.reads:
        yield f"%R~{keys.root}*"
        return
    if role.runs_scripts:
        yield f"%RW~{keys.root}"
    yield from (f"%RW~{pattern}" for name in role.writes for pattern in _written(keys, name))
    yield from (f"%R~{keys.root}{name.removesuffix('_prefix')}{':*' * name.endswith('_prefix')}" for name in role.reads)


def _written(keys: Keys, name: str) -> Iterable[str]:
    """The key of that name; where that begins the names of records, those."""
    key = keys.all[ORDER.index(name)]
    yield f"{key}*" if name.endswith("_prefix") else key
    if name == "free":
        yield f"{key}@*"


def aclfile(hashes: Mapping[str, str], pool: str, rq_prefix: str = "rq", server: str = NEWEST) -> list[str]:
    """Lines of a server's ``aclfile``: these roles with these passwords' SHA-256."""
    return [
        f"user {user_name(pool, role)} on #{digest} {' '.join(rules(role, pool, rq_prefix, server))}"
        for role, digest in hashes.items()
    ]


def commands(hashes: Mapping[str, str], pool: str, rq_prefix: str = "rq", server: str = NEWEST) -> list[str]:
    """The same as commands, for a server that runs: what a user had before is gone."""
    return [
        f"ACL SETUSER {user_name(pool, role)} reset on #{digest} {' '.join(rules(role, pool, rq_prefix, server))}"
        for role, digest in hashes.items()
    ]
