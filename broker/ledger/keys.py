"""Every key name of a pool, once."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from broker.errors import InvalidRequest

_POOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)

#: The names of ``Keys.all`` in their order, which ``lua/include/keys.lua`` repeats.
ORDER = (
    "ledger", "root", "gpus", "gpu_prefix", "free", "fresh", "capacity", "lease_prefix", "leases",
    "ended_prefix", "waiter_prefix", "waiters", "waiting", "wake_prefix", "events",
    "metrics_prefix", "hosts", "host_prefix", "tenants", "tenant_prefix", "classes", "wide", "reserved",
    "lines_prefix", "line_prefix", "groups", "stale", "hardware_prefix",
    "crew_prefix", "size_prefix", "sizes",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Keys:
    """The names of one pool's keys. All share the hash tag ``{POOL}``, hence one Redis Cluster slot.

    A name that ends in ``_prefix`` is completed with a host, a UUID or an id.

    Raises:
        InvalidRequest: the pool's name is not 1 to 64 letters, digits, ``_``, ``.`` or ``-``.
    """

    pool: str
    all: tuple[str, ...] = field(init=False, repr=False)
    root: str = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check the pool's name and lay out the names."""
        if not _POOL.fullmatch(self.pool):
            raise InvalidRequest("pool", self.pool, "1 to 64 letters, digits, '_', '.' or '-', a letter or digit first")
        root = f"gpubroker:{{{self.pool}}}:"
        object.__setattr__(self, "root", root)
        object.__setattr__(
            self,
            "all",
            (
                f"{root}ledger",  # hash: epoch, token, seq, clock_ms, soonest, ...
                root,  # the beginning of all names, from which scripts make them
                f"{root}gpus",  # set of UUIDs
                f"{root}gpu:",  # hash a GPU; beside its facts a field lease:ID with the bytes of each lease on it
                f"{root}free",  # zset: UUID by free bytes, only GPUs open for grants; free@CLASS the same for one class
                f"{root}fresh",  # zset: UUID by the time at which its sample is too old
                f"{root}capacity",  # zset: UUID by the budget it would have with nothing unmanaged on it
                f"{root}lease:",  # hash a lease
                f"{root}leases",  # zset: id by expiry in ms
                f"{root}ended:",  # string with a TTL: token of a lease that ended a moment ago
                f"{root}waiter:",  # hash a waiter
                f"{root}waiters",  # zset: id by priority, then arrival
                f"{root}waiting",  # zset: id by the time at which a silent waiter is dropped
                f"{root}wake:",  # list a waiter: pushed when it is granted
                f"{root}events",  # stream: the journal
                f"{root}metrics:",  # stream a host: samples
                f"{root}hosts",  # set of host names
                f"{root}host:",  # hash a host
                f"{root}tenants",  # set of tenants' names
                f"{root}tenant:",  # hash a tenant: quota, weight, what it holds, used and was lent for each function
                f"{root}classes",  # hash: class of cards (capability, MIG profile, labels) to their number
                f"{root}wide",  # zset: HOST#k by k * 2^43 + the k-th largest free bytes of the host, k from 2 on
                f"{root}reserved",  # zset: UUID by free bytes, GPUs whose free bytes gather for one waiter
                f"{root}lines:",  # zset a group of waiters: its lines by their first waiter's place
                f"{root}line:",  # zset a line: waiters of one group, tenant and size, by place
                f"{root}groups",  # set of groups of waiters that select by class
                f"{root}stale",  # set of hosts of whose cards more may be free than `wide` says
                f"{root}hardware:",  # hash a GPU: what its newest sample says beside what lending needs
                f"{root}crew:",  # QUEUE: zset of hosts with workers; #QUEUE: of idle ones; @HOST: hash of queues
                f"{root}size:",  # hash a function: what its runs took, NAME@BUCKET by the size of their input
                f"{root}sizes",  # zset: function by its last run that was learned
            ),
        )

    @property
    def declared(self) -> tuple[str, str]:
        """What every script is sent as its keys: the prefix, from which it makes the names, and the ledger.

        Two names instead of thirty: a script's keys are packed, sent, parsed and looked through for every call. They
        have the hash tag of all, hence their slot. The first is no key that is ever there, the second always is: a
        cluster that moves the slot answers TRYAGAIN to whom wants one that is there and one that is not, and so no
        script runs where only a part of the pool is.
        """
        return self.root, self.ledger

    def _at(self, name: str, suffix: str = "") -> str:
        return self.all[ORDER.index(name)] + suffix

    @property
    def ledger(self) -> str:
        """Hash: epoch, last token, journal sequence, clock high-water mark."""
        return self._at("ledger")

    @property
    def config(self) -> str:
        """Hash: thresholds that differ from the defaults; ``NAME@UUID`` overrides for one GPU."""
        return self._at("root", "config")

    @property
    def gpus(self) -> str:
        """Set of UUIDs."""
        return self._at("gpus")

    @property
    def free(self) -> str:
        """Sorted set: UUID by free bytes, only GPUs open for grants."""
        return self._at("free")

    @property
    def leases(self) -> str:
        """Sorted set: lease id by expiry in milliseconds."""
        return self._at("leases")

    @property
    def waiters(self) -> str:
        """Sorted set: waiter id by priority, then arrival."""
        return self._at("waiters")

    @property
    def fresh(self) -> str:
        """Sorted set: UUID by the time at which its sample is too old."""
        return self._at("fresh")

    @property
    def waiting(self) -> str:
        """Sorted set: waiter id by the time at which it is dropped if silent."""
        return self._at("waiting")

    @property
    def events(self) -> str:
        """Stream: the journal."""
        return self._at("events")

    @property
    def hosts(self) -> str:
        """Set of host names."""
        return self._at("hosts")

    @property
    def tenants(self) -> str:
        """Set of tenants' names."""
        return self._at("tenants")

    @property
    def classes(self) -> str:
        """Hash: class of cards to their number."""
        return self._at("classes")

    @property
    def wide(self) -> str:
        """Sorted set: ``HOST#k`` by ``k * 2^43`` plus the host's k-th largest free bytes."""
        return self._at("wide")

    @property
    def reserved(self) -> str:
        """Sorted set: UUID by free bytes, GPUs kept for one waiter."""
        return self._at("reserved")

    @property
    def capacity(self) -> str:
        """Sorted set: UUID by the budget with nothing unmanaged on the card."""
        return self._at("capacity")

    @property
    def groups(self) -> str:
        """Set of groups of waiters that select by class."""
        return self._at("groups")

    @property
    def stale(self) -> str:
        """Set of hosts of whose cards more may be free than ``wide`` says."""
        return self._at("stale")

    @property
    def sizes(self) -> str:
        """Sorted set: function by the time of its last run that was learned."""
        return self._at("sizes")

    def size(self, function: str) -> str:
        """Hash of what one function's runs took."""
        return self._at("size_prefix", function)

    def free_of(self, gpu_class: str) -> str:
        """Sorted set like ``free``, for the GPUs of one class."""
        return self._at("free", f"@{gpu_class}")

    def lines(self, group: str) -> str:
        """Sorted set: the lines of a group of waiters."""
        return self._at("lines_prefix", group)

    def line(self, name: str) -> str:
        """Sorted set: one line of waiters."""
        return self._at("line_prefix", name)

    def tenant(self, name: str) -> str:
        """Hash of one tenant."""
        return self._at("tenant_prefix", name)

    def gpu(self, uuid: str) -> str:
        """Hash of one GPU."""
        return self._at("gpu_prefix", uuid)

    def lease(self, lease_id: str) -> str:
        """Hash of one lease."""
        return self._at("lease_prefix", lease_id)

    def ended(self, lease_id: str) -> str:
        """Token of a lease that ended a moment ago, and how."""
        return self._at("ended_prefix", lease_id)

    def waiter(self, lease_id: str) -> str:
        """Hash of one waiter."""
        return self._at("waiter_prefix", lease_id)

    def wake(self, lease_id: str) -> str:
        """List on which a waiter sleeps."""
        return self._at("wake_prefix", lease_id)

    def hardware(self, uuid: str) -> str:
        """Hash of what one GPU's newest sample says beside what lending needs."""
        return self._at("hardware_prefix", uuid)

    def crew(self, queue: str) -> str:
        """Sorted set: hosts where workers of a queue live, by the time at which they count as gone."""
        return self._at("crew_prefix", queue)

    def seats(self, queue: str) -> str:
        """Sorted set: idle workers of a queue, ``HOST WORKER QUEUES``, by the time at which they count as gone."""
        return self._at("crew_prefix", f"#{queue}")

    def wake_of(self, worker: str) -> str:
        """List on which an idle worker sleeps."""
        return self._at("wake_prefix", f"@{worker}")

    def answer(self, digest: str) -> str:
        """An answer that the HTTP face gave, by its ``Idempotency-Key``; kept for minutes. No script knows of it."""
        return f"{self.root}answer:{digest}"

    def metrics(self, host: str) -> str:
        """Stream of one host's samples."""
        return self._at("metrics_prefix", host)

    def host(self, host: str) -> str:
        """Hash of one host."""
        return self._at("host_prefix", host)
