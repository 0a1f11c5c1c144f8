"""A lease's life on a real server: taken, kept, given back, over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from broker import (
    Broker,
    ImpossibleRequest,
    InsufficientMemory,
    LeaseConflict,
    LeaseLost,
    LeaseNotFound,
    StaleToken,
)
from broker.ledger.keys import ORDER
from broker.units import GIB, MIB
from broker.values import State

Cards = Callable[..., None]


def until(happened: Callable[[], bool], seconds: float = 10) -> None:
    """Ask the ledger again and again until it says so; expiry has no push of its own without a next script."""
    ends = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < ends, "did not happen in time"
        time.sleep(0.02)


def test_a_lease_names_its_card_and_shrinks_its_free_bytes(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("4GiB", lease_id="job-7", job_id="j", pid=12)
    (gpu,) = broker.gpus()
    assert (lease.gpu_uuids, lease.host, lease.memory_bytes, lease.gpus) == (("GPU-a",), "h1", 4 * GIB, 1)
    assert (gpu.leased_bytes, gpu.free_bytes, gpu.budget_bytes) == (
        4 * GIB,
        6 * GIB - 512 * MIB - 4 * GIB,
        6 * GIB - 512 * MIB,
    )
    record = broker.get("job-7")
    assert record is not None
    assert (record.token, record.state, record.job_id, record.pid) == (lease.token, "active", "j", 12)


def test_the_fullest_card_that_has_room_is_taken(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    broker.acquire("3GiB", gpu="GPU-b")
    assert broker.acquire("2GiB").gpu_uuids == ("GPU-b",)
    assert broker.acquire("2GiB").gpu_uuids == ("GPU-a",)


def test_the_last_byte_of_a_budget_is_lent_and_not_one_more(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    budget = 6 * GIB - 512 * MIB
    broker.acquire(budget - 1)
    broker.acquire(1)
    with pytest.raises(InsufficientMemory, match="no room"):
        broker.acquire(1)


def test_what_can_never_fit_is_refused_at_once(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", host="h1")
    cards("GPU-big", host="h2", total=24 * GIB)
    for limits in ({"host": "h1"}, {"gpu": "GPU-a"}):
        with pytest.raises(ImpossibleRequest, match=r"5\.5 GiB"):
            broker.acquire("6GiB", wait=30, **limits)  # type: ignore[arg-type]
    assert broker.acquire("6GiB", wait=30).gpu_uuids == ("GPU-big",)


def test_a_limit_to_a_host_or_a_card_is_kept(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", host="h1")
    cards("GPU-b", "GPU-c", host="h2")
    assert broker.acquire("1GiB", host="h1").gpu_uuids == ("GPU-a",)
    assert broker.acquire("1GiB", gpu="GPU-c").gpu_uuids == ("GPU-c",)
    with pytest.raises(ImpossibleRequest):
        broker.acquire("1GiB", gpu="GPU-c", host="h1")
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB", host="nowhere")


def test_the_same_name_and_request_again_is_the_same_lease(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    first = broker.acquire("2GiB", lease_id="job")
    again = broker.acquire("2GiB", lease_id="job")
    assert again.token == first.token
    assert broker.gpus()[0].leased_bytes == 2 * GIB


def test_the_same_name_with_another_request_is_a_conflict(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("2GiB", lease_id="job")
    for other in ({"memory": "1GiB"}, {"memory": "2GiB", "priority": 1}, {"memory": "2GiB", "host": "h1"}):
        with pytest.raises(LeaseConflict):
            broker.acquire(lease_id="job", **other)  # type: ignore[arg-type]
    assert broker.gpus()[0].leased_bytes == 2 * GIB


def test_tokens_only_grow(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    tokens = []
    for _ in range(5):
        lease = broker.acquire("1GiB")
        tokens.append(lease.token)
        lease.release()
    assert tokens == sorted(set(tokens))
    assert max(tokens) < 1 << 53


def test_a_new_ledger_starts_above_every_token_of_a_lost_one(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    old = broker.acquire("1GiB")
    epoch = int(broker.redis.hget(broker.keys.ledger, "epoch"))  # type: ignore[arg-type]
    broker.redis.flushall()
    until(lambda: int(broker.redis.time()[0]) - 1735689600 > epoch)  # type: ignore[index]
    cards("GPU-a")
    assert broker.acquire("1GiB").token > old.token


def test_a_released_lease_gives_its_bytes_back_once(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("2GiB")
    other = broker.acquire("1GiB")
    assert lease.release() is True
    assert lease.release() is True  # as after a lost reply
    assert broker.gpus()[0].leased_bytes == other.memory_bytes
    assert broker.get(lease.id) is None


def test_a_stale_token_is_refused_and_changes_nothing(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    old = broker.acquire("2GiB", lease_id="job")
    old.release()
    new = broker.acquire("2GiB", lease_id="job")
    before = broker.redis.hgetall(broker.keys.lease("job")), broker.redis.xlen(broker.keys.events)
    for refused in (old.renew, old.release, lambda: broker.check("job", old.token)):
        with pytest.raises(StaleToken):
            refused()
    assert (broker.redis.hgetall(broker.keys.lease("job")), broker.redis.xlen(broker.keys.events)) == before
    assert new.token == broker.get("job").token  # type: ignore[union-attr]


def test_an_unknown_lease_cannot_be_renewed_released_or_started(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    for refused in (broker.renew, broker.release, broker.check):
        with pytest.raises(LeaseNotFound):
            refused("nobody", 5)


def test_a_token_continues_its_lease_and_never_takes_a_new_one(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("1GiB", lease_id="job")
    assert broker.acquire("1GiB", lease_id="job", token=lease.token).token == lease.token
    with pytest.raises(StaleToken):
        broker.acquire("1GiB", lease_id="job", token=lease.token + 1)
    lease.release()
    with pytest.raises(LeaseNotFound):
        broker.acquire("1GiB", lease_id="job", token=lease.token)
    assert broker.leases() == []


def test_a_lease_that_is_not_renewed_ends_and_its_bytes_count_until_the_lock_delay_passed(
    broker: Broker, cards: Cards
) -> None:
    broker.update_config(reclaim_seconds=0.4)
    cards("GPU-a")
    lease = broker.acquire("5GiB", ttl=0.2)
    until(lambda: bool(broker.reap()) and broker.get(lease.id).state == "reclaiming")  # type: ignore[union-attr]
    with pytest.raises(InsufficientMemory):
        broker.acquire("5GiB")  # law 9: its holder may only be paused
    until(lambda: bool(broker.reap()) and broker.get(lease.id) is None)
    assert broker.acquire("5GiB").gpu_uuids == ("GPU-a",)
    kinds = [event.kind for event in broker.events()]
    assert kinds.index("expired") < kinds.index("reclaimed")


def test_renewing_keeps_a_lease_past_its_first_end(broker: Broker, cards: Cards) -> None:
    broker.update_config(reclaim_seconds=0)
    cards("GPU-a")
    lease = broker.acquire("1GiB", ttl=0.5)
    first_end = lease.expires_at
    until(lambda: lease.renew() > 0 and broker.reap() > first_end + 200)
    assert broker.get(lease.id) is not None
    assert not lease.lost


def test_an_expired_lease_is_not_revived_by_renew_release_or_start(broker: Broker, cards: Cards) -> None:
    broker.update_config(reclaim_seconds=30)
    cards("GPU-a")
    lease = broker.acquire("1GiB", lease_id="job", ttl=0.1)
    until(lambda: bool(broker.reap()) and broker.get("job").state == "reclaiming")  # type: ignore[union-attr]
    with pytest.raises(LeaseLost):
        lease.renew()
    with pytest.raises(LeaseLost):
        broker.check("job", lease.token)
    with pytest.raises(LeaseLost):
        broker.acquire("1GiB", lease_id="job", ttl=0.1)
    assert lease.lost
    assert broker.get("job").state == "reclaiming"  # type: ignore[union-attr]


def test_the_last_millisecond_of_a_lease_is_over(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("1GiB", lease_id="job", ttl=0.1)
    until(lambda: _milliseconds(broker) >= lease.expires_at)
    with pytest.raises(LeaseLost):  # nobody has reaped it yet: the boundary itself refuses
        lease.renew()


def _milliseconds(broker: Broker) -> int:
    seconds, micros = broker.redis.time()  # type: ignore[misc]
    return int(seconds) * 1000 + int(micros) // 1000


def test_a_release_in_the_lock_delay_gives_the_bytes_back_at_once_and_says_it_was_late(
    broker: Broker, cards: Cards
) -> None:
    broker.update_config(reclaim_seconds=30)
    cards("GPU-a")
    lease = broker.acquire("5GiB", ttl=0.1)
    until(lambda: bool(broker.reap()) and broker.get(lease.id).state == "reclaiming")  # type: ignore[union-attr]
    assert lease.release() is False
    assert broker.gpus()[0].leased_bytes == 0


def test_after_the_lock_delay_the_former_holder_hears_that_it_lost(broker: Broker, cards: Cards) -> None:
    broker.update_config(reclaim_seconds=0)
    cards("GPU-a")
    lease = broker.acquire("5GiB", ttl=0.1)
    until(lambda: bool(broker.reap()) and broker.get(lease.id) is None)
    for refused in (lease.renew, lease.release):
        with pytest.raises(LeaseLost):
            refused()


def test_the_start_gate_notes_the_process_and_starts_the_ttl_afresh(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("1GiB", ttl=5)
    until(lambda: _milliseconds(broker) > lease.expires_at - 5000)
    assert broker.check(lease.id, lease.token, pid=4321) > lease.expires_at
    assert broker.get(lease.id).pid == 4321  # type: ignore[union-attr]


def test_a_with_block_renews_itself_and_releases_also_when_it_raises(broker: Broker, cards: Cards) -> None:
    broker.update_config(reclaim_seconds=0)
    cards("GPU-a")
    with broker.lease("1GiB", ttl=0.3) as lease:
        first_end = lease.expires_at
        until(lambda: broker.reap() > first_end + 300)
        assert broker.get(lease.id) is not None
    assert broker.leases() == []

    def fail() -> None:
        with broker.lease("1GiB"):
            raise KeyError("the job's own error")

    with pytest.raises(KeyError):
        fail()
    assert broker.leases() == []


def test_a_holder_cut_off_from_redis_knows_by_itself_that_it_lost(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("1GiB", ttl=0.1)
    assert not lease.lost
    threading.Event().wait(0.15)  # its own clock is what is tested here
    assert lease.lost


def test_no_grant_on_a_card_that_is_critical_unavailable_drained_or_silent(broker: Broker, cards: Cards) -> None:
    for state in (State.CRITICAL, State.UNAVAILABLE):
        cards("GPU-a", state=state)
        with pytest.raises(InsufficientMemory, match="no GPU"):
            broker.acquire("1GiB")
    cards("GPU-a")
    broker.drain("GPU-a")
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB", gpu="GPU-a")
    cards("GPU-a")  # a sample does not lift an operator's drain
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB")
    broker.undrain("GPU-a")
    broker.acquire("1GiB").release()
    cards("GPU-a", interval_ms=1)
    until(lambda: _milliseconds(broker) > broker.gpus()[0].fresh_until)
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB", gpu="GPU-a")
    assert broker.gpus()[0].state is State.UNAVAILABLE


def test_a_silent_card_is_noted_in_the_journal_and_comes_back_with_a_sample(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", interval_ms=1)
    until(lambda: bool(broker.reap()) and broker.redis.hget(broker.keys.gpu("GPU-a"), "state") == "UNAVAILABLE")
    cards("GPU-a")
    assert broker.acquire("1GiB").gpu_uuids == ("GPU-a",)
    states = [event.fields["to"] for event in broker.events() if event.kind == "state"]
    assert states == ["OPTIMAL", "UNAVAILABLE", "OPTIMAL"]


def test_a_throttled_card_still_lends(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", state=State.THROTTLED, job_state=State.THROTTLED)
    assert broker.acquire("1GiB").gpu_uuids == ("GPU-a",)
    assert broker.throttle("GPU-a").speed == 0.5


def test_what_a_budget_is_short_of_follows_each_lease_that_ends(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    leases = [broker.acquire("1GiB") for _ in range(4)]
    cards("GPU-a", unmanaged_bytes=3 * GIB)
    seen = []
    for lease in leases:
        lease.release()
        seen.append((broker.gpus()[0].short_bytes, broker.gpus()[0].free_bytes))
    assert seen == [(512 * MIB, 0), (0, 512 * MIB), (0, 1536 * MIB), (0, 2560 * MIB)]


def test_a_budget_that_shrinks_under_its_leases_stops_grants_and_says_so(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("4GiB")
    cards("GPU-a", unmanaged_bytes=3 * GIB)
    (gpu,) = broker.gpus()
    assert (gpu.free_bytes, gpu.short_bytes) == (0, 4 * GIB - (6 * GIB - 512 * MIB - 3 * GIB))
    with pytest.raises(InsufficientMemory):
        broker.acquire("1MiB")
    assert [event.fields["budget_bytes"] for event in broker.events() if event.kind == "short"] == [str(2560 * MIB)]
    lease.release()
    assert broker.acquire("2GiB").gpu_uuids == ("GPU-a",)


def test_a_card_published_by_two_hosts_belongs_to_the_first(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", host="h1")
    cards("GPU-a", host="h2")
    assert broker.gpus()[0].host == "h1"


def test_a_host_that_left_lends_nothing_and_is_forgotten_with_its_last_lease(broker: Broker, cards: Cards) -> None:
    from broker.publish import Publisher

    cards("GPU-a", "GPU-b")
    lease = broker.acquire("1GiB")
    Publisher(broker, "h1").leave()
    assert [gpu.uuid for gpu in broker.gpus()] == list(lease.gpu_uuids)
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB")
    lease.release()
    assert broker.gpus() == []
    assert broker.hosts() == []


def test_a_card_that_its_host_does_not_name_any_more_lends_nothing(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b")
    cards("GPU-b")
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB", gpu="GPU-a")
    cards()
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB")
    assert {gpu.state for gpu in broker.gpus()} == {State.UNAVAILABLE}
    cards("GPU-a", "GPU-b")
    assert broker.acquire("1GiB", gpu="GPU-a").host == "h1"


def test_a_host_that_comes_back_with_leases_on_it_keeps_them(broker: Broker, cards: Cards) -> None:
    from broker.publish import Publisher

    cards("GPU-a")
    lease = broker.acquire("5GiB")
    Publisher(broker, "h1").leave()
    cards("GPU-a")
    with pytest.raises(InsufficientMemory):
        broker.acquire("1GiB")
    lease.release()
    assert broker.acquire("5GiB").gpu_uuids == ("GPU-a",)


def test_a_card_may_move_to_another_host_once_the_first_is_silent(broker: Broker, cards: Cards) -> None:
    cards("GPU-a", host="h1", interval_ms=1)
    until(lambda: bool(broker.reap()) and broker.gpus()[0].state is State.UNAVAILABLE)
    cards("GPU-a", host="h2")
    assert broker.acquire("1GiB", host="h2").gpu_uuids == ("GPU-a",)


def test_a_replay_with_another_ttl_does_not_believe_it(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("1GiB", lease_id="job", ttl=0.5)
    replay = broker.acquire("1GiB", lease_id="job", ttl=3600)
    assert replay.ttl_ms == 500


def test_a_replays_time_counts_from_the_grant(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    first = broker.acquire("1GiB", lease_id="job", ttl=1)
    until(lambda: _milliseconds(broker) > first.expires_at - 500)
    replay = broker.acquire("1GiB", lease_id="job", ttl=1)
    until(lambda: _milliseconds(broker) >= first.expires_at)
    assert replay.lost


def test_the_start_gate_leaves_the_process_of_the_request_if_it_names_none(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("1GiB", pid=12)
    broker.check(lease.id, lease.token)
    assert broker.get(lease.id).pid == 12  # type: ignore[union-attr]


def test_a_card_whose_hash_was_lost_breaks_no_script_and_owes_nothing(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("4GiB")
    broker.redis.delete(broker.keys.gpu("GPU-a"))
    broker.redis.hset(broker.keys.ledger, "soonest", 0)
    broker.redis.zadd(broker.keys.all[ORDER.index("fresh")], {"GPU-a": 1})
    assert broker.reap() > 0
    cards("GPU-a")
    assert lease.release() is True
    assert broker.gpus()[0].leased_bytes == 0


def test_a_setting_written_by_hand_that_is_no_number_breaks_no_script(broker: Broker, cards: Cards) -> None:
    for name in ("reclaim_seconds", "claim_seconds", "bypass_max", "grace_seconds", "history_size"):
        broker.redis.hset(broker.keys.config, name, "5s")
    cards("GPU-a")
    lease = broker.acquire("5GiB", ttl=0.1)
    until(lambda: bool(broker.reap()) and broker.get(lease.id).state == "reclaiming")  # type: ignore[union-attr]
    assert lease.release() is False
    broker.redis.hset(broker.keys.config, "memory_limit_mb", "4GiB")
    cards("GPU-a")
    with pytest.raises((InsufficientMemory, ImpossibleRequest)):  # nothing fails open
        broker.acquire("1MiB")


def past(broker: Broker, at: int) -> None:
    """Waits for a time of Redis's clock without running any script: whatever is over has not been noticed yet."""

    def now() -> int:
        seconds, micros = broker.redis.time()  # type: ignore[misc]
        return int(seconds) * 1000 + int(micros) // 1000

    until(lambda: now() > at)


def test_a_lease_whose_time_is_over_is_nobodys_though_no_script_has_noticed(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    for lost in (
        lambda lease: broker.acquire("1GiB", lease_id=lease.id),
        lambda lease: lease.resize("2GiB"),
        lambda lease: lease.renew(),
        lambda lease: broker.check(lease.id, lease.token),
    ):
        lease = broker.acquire("1GiB", ttl=0.1)
        past(broker, lease.expires_at)
        with pytest.raises(LeaseLost, match="expired"):
            lost(lease)


def test_a_card_that_is_named_lends_no_byte_more_than_its_budget_either(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire(6 * GIB - 512 * MIB)
    for where in ({"gpu": "GPU-a"}, {"host": "h1"}):
        with pytest.raises(InsufficientMemory):
            broker.acquire(1, **where)  # type: ignore[arg-type]
