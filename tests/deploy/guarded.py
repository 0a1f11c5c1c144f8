"""A server whose only users are those that `gpubroker acl` makes, of two pools, and an admin."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import redis

from broker import Broker, acl
from broker.publish import Publisher
from broker.units import GIB
from broker.values import ListedProcess
from tests.conftest import report
from tests.deploy.servers import Server
from tests.deploy.versions import acl_version

ROLES = ("agent", "worker", "broker", "viewer", "producer")
POOL, OTHER = "alpha", "beta"


class Guarded:
    """The server, and clients of it by their role."""

    def __init__(self, folder: Path) -> None:
        """Make the users' passwords and file; nothing runs yet."""
        self.passwords = {acl.user_name(pool, role): acl.new_password() for pool in (POOL, OTHER) for role in ROLES}
        self.passwords[acl.user_name(POOL, "admin")] = acl.new_password()
        hashes = {name: acl.hash_of(password) for name, password in self.passwords.items()}
        lines = ["user default off"]
        for pool in (POOL, OTHER):
            named = {role: hashes[acl.user_name(pool, role)] for role in (*ROLES, "admin")[: 6 if pool == POOL else 5]}
            lines += acl.aclfile(named, pool, server=acl_version())
        self.file = folder / "users.acl"
        self.file.write_text("\n".join(lines) + "\n")
        admin = acl.user_name(POOL, "admin")
        self.server = Server({"aclfile": self.file}, user=(admin, self.passwords[admin]))

    def __enter__(self) -> Self:
        """Start it."""
        self.server.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it."""
        self.server.__exit__()

    @property
    def admin(self) -> redis.Redis:
        """Who may do everything."""
        return self.server.client

    def url(self, role: str, pool: str = POOL) -> str:
        """As a role connects."""
        name = acl.user_name(pool, role)
        return f"redis://{name}:{self.passwords[name]}@{self.server.address}/0"

    def broker(self, role: str, pool: str = POOL) -> Broker:
        """A client of the pool by that role."""
        return Broker.from_url(self.url(role, pool), pool=pool)

    def raw(self, role: str) -> redis.Redis:
        """A bare client by that role."""
        return redis.Redis.from_url(self.url(role), decode_responses=True)

    def dump(self) -> dict[str, Any]:
        """Everything on the server, byte for byte."""
        with redis.Redis(
            host="127.0.0.1", port=self.server.port, username=acl.user_name(POOL, "admin"),
            password=self.passwords[acl.user_name(POOL, "admin")],
        ) as client:  # fmt: skip
            return {str(key): client.dump(key) for key in client.scan_iter(count=1000)}  # type: ignore[arg-type]

    def denied(self) -> list[str]:
        """What anybody tried and might not: user, where and what."""
        return [f"{one['username']} {one['context']} {one['object']}" for one in self.admin.acl_log()]

    def forget_denied(self) -> None:
        """Empty the server's log of what was refused."""
        self.admin.acl_log_reset()

    def fill(self, pool: str = POOL) -> int:
        """A card with a strange process, a lease `held`, a waiter `waits`, sizes of `enhance`; the lease's token."""
        self.admin.flushall()
        with self.broker("broker", pool) as broker:
            there = report(
                "GPU-a", memory_used_bytes=GIB, unmanaged_bytes=GIB, process_count=1, processes=((4242, GIB),),
                hardware={"slowdown_c": 95}, listed=(ListedProcess(4242, "1", GIB, "darktable", ""),),
            )  # fmt: skip
            Publisher(broker, "h1").publish([there], 600_000)
            token = broker.acquire("4GiB", lease_id="held", ttl=600, tenant="studio", function="enhance").token
            broker.call("acquire", "waits", str(3 * GIB), 30000, "", "", 0, "default", "me", "", "", "", "1")
            broker.learn("enhance", "run-1", 4 * GIB, peak_bytes=3 * GIB)
            broker.update_config(monitor_interval=2)
        self.forget_denied()
        return token
