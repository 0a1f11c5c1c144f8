"""Every state of a pool under load and faults keeps the laws; and the checker sees it when one does not."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

import pytest
import redis

from broker import Broker
from broker.embedded import EmbeddedServer
from broker.units import GIB
from tests.proof.follower import Follower, StreamEnded
from tests.proof.laws import Checker
from tests.proof.proxy import Proxy, RequestFramer
from tests.proof.soak import soak

ROOT = "gpubroker:{default}:"
EPOCH = 100
FIRST = (EPOCH << 23) + 1  # the first token of that epoch


def test_a_small_dose_of_load_and_faults_breaks_no_law() -> None:
    result = soak(10, seed=7, restart_every=5)
    assert not result.violations, "\n".join(result.violations)
    assert result.transitions > 500
    assert result.grants > 50
    assert result.faults["restart"] == 1
    assert sum(result.faults.values()) > 10


# -- the checker, on hand-made transactions ----------------------------------------------------------------------------


class Script:
    """Writes transactions as the ledger's scripts do, for a pool of two cards of 10 bytes budget on host h."""

    def __init__(self) -> None:
        self.checker = Checker()
        self.seq = 0
        self.at = 1_000_000
        self.leased = {"GPU-a": 0, "GPU-b": 0}
        events = [self.event("epoch", epoch=EPOCH, why="born")]
        cards = [command for uuid in self.leased for command in self.card(uuid)]
        self.run(self.hset("host:h", host="h", gpus="GPU-a GPU-b"), *cards, *events, token=EPOCH << 23)

    def run(self, *commands: list[str], token: int | None = None, **ledger: object) -> list[str]:
        """One transaction, with the ledger's own write at its end; returns what was found."""
        own = {"seq": self.seq, "clock_ms": self.at, "epoch": EPOCH, "soonest": 0, **ledger}
        if token is not None:
            own["token"] = token
        before = len(self.checker.violations)
        self.checker.apply([*commands, self.hset("ledger", **own)])
        return [f"{law}: {what}" for one in self.checker.violations[before:] for law, what in one.found]

    def hset(self, key: str, **fields: object) -> list[str]:
        return ["HSET", ROOT + key, *(str(word) for pair in fields.items() for word in pair)]

    def event(self, kind: str, **fields: object) -> list[str]:
        self.seq += 1
        self.at += 1
        words = {"seq": self.seq, "kind": kind, "at": self.at, **fields}
        return ["XADD", ROOT + "events", "MAXLEN", "=", "9", f"{self.at}-0",
                *(str(word) for pair in words.items() for word in pair)]  # fmt: skip

    def card(self, uuid: str, **changes: object) -> list[list[str]]:
        """A card that lends, and its indexes."""
        leased = self.leased[uuid]
        fields: dict[str, object] = {
            "uuid": uuid, "host": "h", "state": "OPTIMAL", "drained": 0, "budget_bytes": 10, "leased_bytes": leased,
            "free_bytes": 10 - leased, "fresh_until": 9_000_000,
        } | changes  # fmt: skip
        offered = ["ZADD", ROOT + "free", str(10 - leased), uuid]
        if leased >= 10:
            offered = ["ZREM", ROOT + "free", uuid]
        return [
            ["SADD", ROOT + "gpus", uuid], self.hset(f"gpu:{uuid}", **fields), offered,
            ["ZADD", ROOT + "fresh", "9000000", uuid],
        ]  # fmt: skip

    def grant(self, name: str, size: int, token: int, uuid: str = "GPU-a", **changes: object) -> list[list[str]]:
        """A lease as acquire writes it; ``changes`` are of the lease's hash."""
        self.leased[uuid] += size
        lease = {"id": name, "token": token, "gpu_uuids": uuid, "host": "h", "memory_bytes": size, "tenant": "t",
                 "state": "active", "expires_at": 2_000_000} | changes  # fmt: skip
        return [
            *self.card(uuid, **{f"lease:{name}": size}), self.hset(f"lease:{name}", **lease),
            ["ZADD", ROOT + "leases", "2000000", name],
            self.event("granted", id=name, token=token, gpu_uuids=uuid, host="h", memory_bytes=size, tenant="t"),
        ]  # fmt: skip

    def end(self, name: str, size: int, token: int, uuid: str = "GPU-a", kind: str = "released") -> list[list[str]]:
        """The end of a lease as release writes it."""
        self.leased[uuid] -= size
        return [
            ["ZREM", ROOT + "leases", name], ["DEL", f"{ROOT}lease:{name}"],
            ["HDEL", f"{ROOT}gpu:{uuid}", f"lease:{name}"], *self.card(uuid),
            self.event(kind, id=name, token=token, gpu_uuids=uuid),
        ]  # fmt: skip

    def waiter(self, name: str) -> list[list[str]]:
        """One who waits, in a line."""
        return [
            self.hset(f"waiter:{name}", id=name, line="any|t|4"), ["ZADD", ROOT + "waiters", "1", name],
            ["ZADD", ROOT + "waiting", "3000000", name], ["ZADD", ROOT + "line:any|t|4", "1", name],
            ["ZADD", ROOT + "lines:any", "1", "any|t|4"],
        ]  # fmt: skip


@pytest.fixture
def script() -> Iterator[Script]:
    """A pool in which all has been lawful so far."""
    made = Script()
    assert made.checker.violations == []
    yield made
    assert made.checker.violation_count == sum(len(one.found) for one in made.checker.violations)


def test_a_lawful_life_is_not_complained_about(script: Script) -> None:
    assert script.run(*script.grant("one", 4, FIRST), token=FIRST) == []
    assert script.run(*script.waiter("w"), queued=1) == []
    assert script.run(*script.end("one", 4, FIRST)) == []
    assert script.checker.transitions == 4
    assert script.checker.kinds["granted"] == 1


def _over_granted(script: Script) -> list[str]:
    return script.run(*script.grant("big", 11, FIRST), token=FIRST)


def _reused_token(script: Script) -> list[str]:
    script.run(*script.grant("one", 1, FIRST), token=FIRST)
    return script.run(*script.grant("two", 1, FIRST, "GPU-b"), token=FIRST)


def _wrong_sum(script: Script) -> list[str]:
    grant = script.grant("one", 4, FIRST)
    script.leased["GPU-a"] = 3
    return script.run(*grant, *script.card("GPU-a"), token=FIRST)


def _wrong_free(script: Script) -> list[str]:
    return script.run(script.hset("gpu:GPU-a", free_bytes=9))


def _wrong_index(script: Script) -> list[str]:
    return script.run(["ZADD", ROOT + "free", "9", "GPU-a"])


def _offered_while_critical(script: Script) -> list[str]:
    return script.run(script.hset("gpu:GPU-a", state="CRITICAL"))


def _missing_waiter(script: Script) -> list[str]:
    script.run(*script.waiter("w"), queued=1)
    return script.run(["DEL", ROOT + "waiter:w"])


def _line_without_its_waiter(script: Script) -> list[str]:
    script.run(*script.waiter("w"), queued=1)
    gone = [["ZREM", ROOT + "waiters", "w"], ["ZREM", ROOT + "waiting", "w"], ["DEL", ROOT + "waiter:w"]]
    return script.run(*gone, queued=0)


def _reserved_for_nobody(script: Script) -> list[str]:
    kept = [script.hset("gpu:GPU-a", reserved_for="w"), ["ZADD", ROOT + "reserved", "10", "GPU-a"]]
    return script.run(*kept, ["ZREM", ROOT + "free", "GPU-a"])


def _granted_on_a_kept_card(script: Script) -> list[str]:
    kept = [script.hset("gpu:GPU-a", reserved_for="w"), ["ZADD", ROOT + "reserved", "10", "GPU-a"]]
    script.run(*script.waiter("w"), script.hset("waiter:w", reserved_gpus="GPU-a"), *kept, queued=1)
    return script.run(*script.grant("one", 4, FIRST), token=FIRST)


def _changed_token(script: Script) -> list[str]:
    script.run(*script.grant("one", 4, FIRST), token=FIRST)
    return script.run(script.hset("lease:one", token=FIRST + 5))


def _fallen_token(script: Script) -> list[str]:
    script.run(*script.grant("one", 4, FIRST), token=FIRST)
    return script.run(token=FIRST - 1)


def _lost_ledger_with_old_tokens(script: Script) -> list[str]:
    script.run(*script.grant("one", 4, FIRST), token=FIRST)
    script.checker.apply([["FLUSHALL"]])
    script.seq, script.leased = 0, {"GPU-a": 0, "GPU-b": 0}
    cards = [command for uuid in script.leased for command in script.card(uuid)]
    return script.run(*cards, *script.grant("two", 1, FIRST), token=FIRST)


def _grown_without_a_grant(script: Script) -> list[str]:
    return script.run(*script.grant("one", 4, FIRST)[:-1], token=FIRST)


def _granted_while_drained(script: Script) -> list[str]:
    grant = script.grant("one", 4, FIRST)
    return script.run(*grant, script.hset("gpu:GPU-a", drained=1), ["ZREM", ROOT + "free", "GPU-a"], token=FIRST)


def _granted_on_an_old_sample(script: Script) -> list[str]:
    script.run(script.hset("gpu:GPU-a", fresh_until=5))
    grant = [c for c in script.grant("one", 4, FIRST) if "fresh_until" not in c]
    return script.run(*grant, script.hset("gpu:GPU-a", **{
        "leased_bytes": 4, "free_bytes": 6, "lease:one": 4}), token=FIRST)  # fmt: skip


def _granted_twice(script: Script) -> list[str]:
    script.run(*script.grant("one", 4, FIRST), token=FIRST)
    script.leased["GPU-a"] = 0
    return script.run(*script.grant("one", 4, FIRST + 1), token=FIRST + 1)


def _granted_while_settling(script: Script) -> list[str]:
    return script.run(*script.grant("one", 4, FIRST), token=FIRST, settling_until=5_000_000)


def _vanished_lease(script: Script) -> list[str]:
    script.run(*script.grant("one", 4, FIRST), token=FIRST)
    return script.run(*script.end("one", 4, FIRST)[:-1])


def _released_under_another_token(script: Script) -> list[str]:
    script.run(*script.grant("one", 4, FIRST), token=FIRST)
    return script.run(*script.end("one", 4, FIRST + 3))


def _reclaimed_without_delay(script: Script) -> list[str]:
    script.run(*script.grant("one", 4, FIRST), token=FIRST)
    return script.run(*script.end("one", 4, FIRST, kind="reclaimed"))


def _expired_early(script: Script) -> list[str]:
    script.run(*script.grant("one", 4, FIRST), token=FIRST)
    expired = script.event("expired", id="one", token=FIRST, gpu_uuids="GPU-a")
    return script.run(script.hset("lease:one", state="reclaiming"), expired)


def _grown_after_its_time(script: Script) -> list[str]:
    script.run(*script.grant("one", 4, FIRST, state="reclaiming"), token=FIRST)
    script.leased["GPU-a"] = 5
    grown = script.event("resized", id="one", token=FIRST, gpu_uuids="GPU-a", memory_bytes=5, before_bytes=4)
    lease = script.hset("lease:one", memory_bytes=5)
    return script.run(*script.card("GPU-a", **{"lease:one": 5}), lease, grown)


def _missing_deadline(script: Script) -> list[str]:
    script.run(*script.grant("one", 4, FIRST), token=FIRST)
    return script.run(["ZREM", ROOT + "leases", "one"])


def _deadline_before_soonest(script: Script) -> list[str]:
    return script.run(*script.grant("one", 4, FIRST), token=FIRST, soonest=2_000_001)


def _hole_in_the_journal(script: Script) -> list[str]:
    script.seq += 1
    return script.run(script.event("config"))


def _clock_back(script: Script) -> list[str]:
    script.at -= 1
    return script.run()


def _wrong_tenant(script: Script) -> list[str]:
    script.run(["SADD", ROOT + "tenants", "t"], script.hset("tenant:t", leased_bytes=0))
    return script.run(*script.grant("one", 4, FIRST), script.hset("tenant:t", leased_bytes=5), token=FIRST)


def _above_quota(script: Script) -> list[str]:
    script.run(["SADD", ROOT + "tenants", "t"], script.hset("tenant:t", leased_bytes=0, quota_bytes=3))
    return script.run(*script.grant("one", 4, FIRST), script.hset("tenant:t", leased_bytes=4), token=FIRST)


def _wrong_host(script: Script) -> list[str]:
    return script.run(script.hset("host:h", leased_memory_bytes=7))


def _wrong_wide(script: Script) -> list[str]:
    return script.run(*script.card("GPU-a", peers=2))


def _half_a_ledger(script: Script) -> list[str]:
    return script.run(["HDEL", ROOT + "ledger", "token"])


def _unknown_command(script: Script) -> list[str]:
    return script.run(["LSET", ROOT + "wake:w", "0", "x"])


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (_over_granted, r"law 1: \['granted'\] left 11 bytes on GPU-a, its budget is 10"),
        (_reused_token, rf"law 5: two was granted token {FIRST} after {FIRST}"),
        (_wrong_sum, r"sums: GPU-a: leased_bytes 3, its leases hold 4"),
        (_wrong_free, r"sums: GPU-a: free_bytes 9, it should be 10"),
        (_wrong_index, r"indexes: GPU-a is offered in `free` with 9.0 bytes, it should be 10.0"),
        (_offered_while_critical, r"indexes: GPU-a is offered in `free` with 10.0 bytes, it should be None"),
        (_missing_waiter, r"indexes: waiter w: hash False, in the queue True"),
        (_line_without_its_waiter, r"indexes: waiter w is gone, its lines: \['any\|t\|4'\]"),
        (_reserved_for_nobody, r"law 7: GPU-a is reserved for w, who knows nothing of it"),
        (_granted_on_a_kept_card, r"law 7: one was granted on GPU-a, which is kept for w"),
        (_changed_token, rf"law 5: lease one had token {FIRST}, now {FIRST + 5}"),
        (_fallen_token, rf"law 5: the ledger's token fell from {FIRST} to {FIRST - 1}"),
        (_lost_ledger_with_old_tokens, rf"law 5: two was granted token {FIRST} after {FIRST}"),
        (_grown_without_a_grant, r"law 1: GPU-a grew from 0 to 4 bytes by \['one'\], without a grant"),
        (_granted_while_drained, r"law 8: one was granted on GPU-a, OPTIMAL and drained"),
        (_granted_on_an_old_sample, r"law 8: one was granted on GPU-a, whose sample is too old"),
        (_granted_twice, r"law 4: one was granted while it held a lease"),
        (_granted_while_settling, r"law 11: one was granted while holders still register"),
        (_vanished_lease, r"law 9: lease one is gone, and no event says why"),
        (_released_under_another_token, r"law 5: released of one under token"),
        (_reclaimed_without_delay, r"law 9: one was reclaimed out of state active, without the lock delay"),
        (_expired_early, r"law 6: one was expired at \d+, its time was 2000000"),
        (_grown_after_its_time, r"law 3: one grew to 5 bytes after its time"),
        (_missing_deadline, r"indexes: lease one has no deadline"),
        (_deadline_before_soonest, r"law 3: something in `leases` is due at 2000000, before the ledger's soonest"),
        (_hole_in_the_journal, r"journal: its number went from 1 to 3"),
        (_clock_back, r"law 6: the ledger's clock fell"),
        (_wrong_tenant, r"sums: tenant t: leased_bytes 5, its leases hold 4"),
        (_above_quota, r"quota: t holds 4 bytes, its quota is 3"),
        (_wrong_host, r"sums: host h: leased_memory_bytes 7, its leases hold 0"),
        (_wrong_wide, r"indexes: `wide` says None of h#2"),
        (_half_a_ledger, r"law 2: a hash is there by halves: KeyError\('token'\)"),
        (_unknown_command, r"law 2: a command that no script should need: LSET"),
    ],
)
def test_each_broken_law_is_named(script: Script, break_it: Callable[[Script], list[str]], named: str) -> None:
    found = break_it(script)
    assert any(re.search(named, text) for text in found), found


# -- the stream --------------------------------------------------------------------------------------------------------


def publish(broker: Broker, *uuids: str) -> None:
    """The first sample of an agent: cards of 6 GiB, well."""
    head: list[str | int] = ["h1", 600_000, "OK", "", "test", len(uuids), 0, 0, os.urandom(8).hex(), 1]
    head += [""] * 6
    cards: list[str | int] = [
        word
        for i, uuid in enumerate(uuids)
        for word in (uuid, i, "Test 6GB", "OPTIMAL", "OPTIMAL", "", 6 * GIB, 0, 0, 0, 40, *[""] * 11)
    ]
    broker.call("publish_sample", *head, *cards)


@pytest.mark.parametrize("diskless", [True, False])
def test_the_follower_sees_what_a_real_server_does_and_names_what_a_stranger_breaks(diskless: bool) -> None:
    with EmbeddedServer() as server, Broker.from_url(server.url) as broker:
        follower = Follower(server.host, server.port, diskless=diskless).start()
        publish(broker, "GPU-a", "GPU-b")
        broker.acquire("1GiB", lease_id="one")
        follower.catch_up(broker.redis)
        assert follower.checker.violations == []
        assert follower.checker.kinds["granted"] == 1
        broker.redis.hset(broker.keys.gpu("GPU-a"), "leased_bytes", 6 * GIB)
        broker.redis.hset(broker.keys.gpu("GPU-b"), "leased_bytes", 6 * GIB)
        follower.catch_up(broker.redis)
        follower.stop()
        assert len(follower.checker.violations) == 2  # one for each write, with the command that did it
        assert "law 1: GPU-b grew" in str(follower.checker.violations[1])
        assert f"HSET gpu:GPU-b leased_bytes {6 * GIB}" in str(follower.checker.violations[1])


def test_the_follower_goes_on_after_a_loss_and_after_a_restart() -> None:
    with EmbeddedServer() as server, Broker.from_url(server.url) as broker:
        first = Follower(server.host, server.port).start()
        publish(broker, "GPU-a")
        first_second = broker.redis.time()[0]
        before = broker.acquire("1GiB").token
        while str(broker.redis.time()[0]) == str(first_second):
            pass  # a lost ledger goes on above all tokens of the seconds before
        broker.redis.flushall()
        publish(broker, "GPU-a")
        first.catch_up(broker.redis)
        first.stop()
        with pytest.raises(StreamEnded, match="not empty"):
            Follower(server.host, server.port).start()
        second = Follower(server.host, server.port, first.checker).start(load=True)
        broker.redis.hset(broker.keys.ledger, "token", before - 1)  # a ledger that goes on below what it granted
        second.catch_up(broker.redis)
        second.stop()
        assert [one.found[0][0] for one in second.checker.violations] == ["law 5"]


# -- the proxy ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def harmed() -> Iterator[tuple[Proxy, redis.Redis, redis.Redis]]:
    """A proxy, a client through it that does not try again, and one past it."""
    with EmbeddedServer() as server, Proxy(server.host, server.port) as proxy:
        never = redis.retry.Retry(redis.backoff.NoBackoff(), 0)
        with redis.Redis(port=proxy.port, retry=never) as through, redis.Redis(port=server.port) as past:
            through.ping()
            yield proxy, through, past


Harmed = tuple[Proxy, redis.Redis, redis.Redis]


def test_a_dropped_reply_is_lost_after_its_request_was_carried_out(harmed: Harmed) -> None:
    proxy, through, past = harmed
    proxy.drop_replies(1)
    with pytest.raises(redis.ConnectionError):
        through.incr("n")
    assert past.get("n") == b"1"
    assert through.incr("n") == 2
    assert proxy.done["drop"] == 1


def test_only_replies_that_match_are_dropped(harmed: Harmed) -> None:
    proxy, through, _ = harmed
    proxy.drop_replies(1, b"INCR")
    through.set("n", 5)
    with pytest.raises(redis.ConnectionError):
        through.incr("n")


def test_a_duplicate_is_carried_out_twice_and_answered_once(harmed: Harmed) -> None:
    proxy, through, past = harmed
    proxy.duplicate(1)
    through.rpush("n", "x")
    assert past.blpop(["n"])
    assert past.blpop(["n"], timeout=4)  # the second is on its way
    assert through.exists("n") == 0
    assert proxy.done["duplicate"] == 1


def test_a_cut_stops_at_the_byte(harmed: Harmed) -> None:
    proxy, through, past = harmed
    proxy.cut_after(10)
    with pytest.raises(redis.ConnectionError):
        through.set("n", 1)
    assert past.get("n") is None
    assert through.set("n", 1)


def test_a_healed_proxy_takes_connections_again(harmed: Harmed) -> None:
    proxy, through, _ = harmed
    proxy.refuse()
    with pytest.raises(redis.ConnectionError):
        through.ping()
    proxy.heal()
    assert through.ping()


def test_requests_are_told_apart_wherever_they_are_cut() -> None:
    stream = b"*1\r\n$4\r\nPING\r\n*2\r\n$3\r\nGET\r\n$1\r\nn\r\nPING\r\n"
    whole = [b"*1\r\n$4\r\nPING\r\n", b"*2\r\n$3\r\nGET\r\n$1\r\nn\r\n", b"PING\r\n"]
    for at in range(len(stream) + 1):
        framer = RequestFramer()
        assert [*framer.feed(stream[:at]), *framer.feed(stream[at:])] == whole
