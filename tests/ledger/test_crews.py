"""Requests that go only where a worker of their queue sits idle, and to that worker."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest

from broker import Broker, answers, calls
from broker.crew import Seat
from broker.errors import BrokerError, ImpossibleRequest, InvalidRequest, LeaseNotFound
from broker.granted import Granted, Waiting
from broker.publish import Publisher
from broker.units import GIB
from tests.conftest import report

Ask = Callable[..., Granted | Waiting]


@pytest.fixture
def hosts(broker: Broker) -> None:
    """h1, h2 and h3, each with a card that lends 5.5 GiB."""
    for host in ("h1", "h2", "h3"):
        Publisher(broker, host).publish([report(f"GPU-{host}")], 600_000)


@pytest.fixture
def seat(broker: Broker) -> Callable[..., Seat]:
    numbers = count(1)
    return lambda host="h1", *queues: Seat(broker, f"w{next(numbers)}", host, queues or ("photos",))


@pytest.fixture
def ask(broker: Broker) -> Ask:
    """Asks for a crew's job, by an idle worker or by nobody in particular."""

    def asked(memory: str, job: str, by: Seat | None = None, **options: object) -> Granted | Waiting:
        given = {"crew": "photos", "wait": 600, **options}
        if by is not None:
            given |= {"seat": by.text, "sits": by.sits}
        request = calls.ask(memory, lease_id=job, job_id=job, **given)  # type: ignore[arg-type]
        return answers.read_acquire(broker.call("acquire", *request.asking(True)), request)

    return asked


Seats = Callable[..., Seat]
pytestmark = pytest.mark.usefixtures("hosts")


def test_without_an_idle_worker_a_request_waits_however_much_is_free(ask: Ask, broker: Broker) -> None:
    assert ask("1GiB", "job") == Waiting(1)
    assert broker.leases() == []
    assert "no worker of queue photos is idle" in str(broker.explain("job"))


def test_a_worker_that_sits_down_is_handed_who_waits(ask: Ask, seat: Seats) -> None:
    ask("1GiB", "job")
    worker = seat("h2")
    assert worker.sit() == "job"
    handed = worker.claim("job")
    assert (handed.lease.host, handed.lease.gpu_uuids, handed.crew, handed.job_id) == (
        "h2",
        ("GPU-h2",),
        "photos",
        "job",
    )


def test_a_worker_that_asks_runs_it_itself_where_all_are_alike(ask: Ask, seat: Seats) -> None:
    others = [seat("h1"), seat("h3")]
    for other in others:
        other.sit()
    found = ask("1GiB", "job", seat("h2"))
    assert isinstance(found, Granted)
    assert found.host == "h2"


def test_the_best_place_wins_not_the_first_worker(ask: Ask, seat: Seats, broker: Broker) -> None:
    broker.acquire("3584MiB", gpu="GPU-h3")  # 2 GiB are left there: they fit exactly
    waits = seat("h3")
    assert waits.sit() is None
    assert ask("2GiB", "job", seat("h1")) == Waiting(0)
    assert broker.redis.lrange(waits.wake_key, 0, -1) == ["job"]
    assert waits.claim("job").lease.host == "h3"


def test_room_on_a_host_without_an_idle_worker_is_nobodys(ask: Ask, seat: Seats, broker: Broker) -> None:
    holder = broker.acquire("5GiB", gpu="GPU-h1")
    worker = seat("h1")
    assert ask("4GiB", "job", worker) == Waiting(1)
    assert worker.sit() is None
    assert broker.get("job") is None
    holder.release()  # here is room now, and a worker
    assert broker.redis.lrange(worker.wake_key, 0, -1) == ["job"]
    assert worker.claim("job").lease.waited_ms >= 0


def test_a_worker_is_handed_one_job_at_a_time(ask: Ask, seat: Seats, broker: Broker) -> None:
    ask("1GiB", "first")
    ask("1GiB", "second")
    worker = seat("h1")
    assert worker.sit() == "first"
    assert [waiter.id for waiter in broker.waiters()] == ["second"]
    worker.claim("first")
    assert worker.look() == "second"


def test_who_is_at_work_is_handed_nothing(ask: Ask, seat: Seats, broker: Broker) -> None:
    worker = seat("h1")
    worker.sit()
    assert worker.rise() is None
    assert ask("1GiB", "job") == Waiting(1)


def test_what_was_handed_over_just_before_a_worker_rose_is_told_to_it(ask: Ask, seat: Seats) -> None:
    worker = seat("h1")
    worker.sit()
    assert ask("1GiB", "job") == Waiting(0)
    assert worker.rise() == "job"
    assert worker.claim("job").lease.host == "h1"


def test_a_worker_that_was_handed_a_job_meanwhile_gets_no_second_one(ask: Ask, seat: Seats) -> None:
    worker = seat("h1")
    worker.sit()
    assert ask("1GiB", "handed") == Waiting(0)
    assert ask("1GiB", "popped", worker) == Waiting(1, "handed")
    assert worker.rise() == "handed"
    assert worker.rise() == "handed"  # until it claims it
    worker.claim("handed")
    assert worker.rise() is None


def test_a_worker_that_was_handed_a_job_and_goes_on_popping_gets_no_other(ask: Ask, seat: Seats) -> None:
    worker = seat("h1")
    ask("1GiB", "waits")
    assert worker.look() == "waits"
    for number in range(3):
        assert ask("1GiB", f"popped{number}", worker) == Waiting(number + 1, "waits")
    assert worker.claim("waits").lease.memory_bytes == GIB
    assert isinstance(ask("1GiB", "more", worker), Granted)


def test_a_worker_of_two_queues_leaves_both_seats(ask: Ask, seat: Seats, broker: Broker) -> None:
    worker = seat("h1", "photos", "urgent")
    worker.sit()
    assert ask("1GiB", "job", crew="urgent") == Waiting(0)
    assert ask("1GiB", "other", crew="photos") == Waiting(1)
    assert broker.redis.zrange(broker.keys.seats("photos"), 0, -1) == []


def test_a_job_is_not_handed_to_a_worker_of_another_queue(ask: Ask, seat: Seats) -> None:
    seat("h1", "video").sit()
    assert ask("1GiB", "job") == Waiting(1)


def test_a_seat_without_another_word_is_empty(
    ask: Ask, seat: Seats, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.crew.SEAT_SECONDS", 0.2)
    seat("h1").sit()
    broker.redis.blpop(["nothing"], timeout=0.3)
    assert ask("1GiB", "job") == Waiting(1)


def test_a_copy_of_the_asking_is_answered_as_the_first(ask: Ask, seat: Seats, broker: Broker) -> None:
    """A lost reply: the client's library asks again with the very same words."""
    waits = seat("h3")
    waits.sit()
    request = calls.ask("1GiB", lease_id="job", job_id="job", crew="photos", wait=600)
    first, second = (broker.call("acquire", *request.asking(True)) for _ in range(2))
    assert first == second == ["waiting", "0", ""]
    handed = waits.claim("job").lease
    assert waits.claim("job").lease.token == handed.token
    assert broker.call("acquire", *request.asking(True)) == ["waiting", "0", ""]
    assert len(broker.leases()) == 1


def test_only_the_worker_to_whom_it_was_handed_may_claim(ask: Ask, seat: Seats) -> None:
    worker, stranger = seat("h1"), seat("h1")
    worker.sit()
    ask("1GiB", "job")
    with pytest.raises(LeaseNotFound):
        stranger.claim("job")
    assert worker.claim("job").lease.id == "job"


def test_what_nobody_claims_moves_on(ask: Ask, seat: Seats, broker: Broker) -> None:
    broker.update_config(claim_seconds=1)
    dead, alive = seat("h1"), seat("h1")
    dead.sit()
    assert ask("5GiB", "lost") == Waiting(0)
    assert ask("5GiB", "next", crew="photos") == Waiting(1)
    assert alive.sit() is None
    broker.redis.blpop(["nothing"], timeout=1.1)
    broker.reap()
    assert broker.redis.lrange(alive.wake_key, 0, -1) == ["next"]
    with pytest.raises(LeaseNotFound):
        dead.claim("lost")


def test_waiters_of_a_crew_need_no_sign_of_life_while_a_worker_lives(
    ask: Ask, seat: Seats, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker.update_config(waiter_seconds=1)
    monkeypatch.setattr("broker.crew.LIFE_SECONDS", 600)
    worker = seat("h1")
    worker.look()
    worker.rise()
    ask("1GiB", "job")
    broker.redis.zadd(broker.keys.waiting, {"job": 1})
    broker.redis.hset(broker.keys.waiter("job"), "deadline", 1)
    broker.redis.hset(broker.keys.ledger, "soonest", 0)
    broker.reap()
    assert [waiter.id for waiter in broker.waiters()] == ["job"]


def test_waiters_of_a_crew_without_workers_are_dropped_in_the_end(ask: Ask, broker: Broker) -> None:
    ask("1GiB", "job")
    broker.redis.zadd(broker.keys.waiting, {"job": 1})
    broker.redis.hset(broker.keys.waiter("job"), "deadline", 1)
    broker.redis.hset(broker.keys.ledger, "soonest", 0)
    broker.reap()
    assert broker.waiters() == []
    assert [event.fields["id"] for event in broker.events() if event.kind == "dropped"] == ["job"]


def test_room_gathers_for_a_big_job_that_small_ones_pass(ask: Ask, seat: Seats, broker: Broker) -> None:
    broker.update_config(bypass_max=3)
    small = [broker.acquire("1GiB", gpu="GPU-h1") for _ in range(2)]
    worker = seat("h1")
    assert worker.look() is None
    assert ask("5GiB", "big", worker) == Waiting(1)
    passed = 0
    for number in range(20):
        found = ask("1GiB", f"small{number}", worker)
        if not isinstance(found, Granted):
            break
        passed += 1
        broker.release(found.id, found.token)
    assert passed == 3  # then what comes free is kept
    for lease in small:
        lease.release()
    assert worker.look() == "big"


def test_a_gang_of_a_crew_goes_where_a_worker_sits(ask: Ask, seat: Seats, broker: Broker) -> None:
    for host in ("h4", "h5"):
        Publisher(broker, host).publish([report(f"GPU-{host}-{i}") for i in range(2)], 600_000)
    worker = seat("h5")
    worker.sit()
    assert ask("2x4GiB", "gang") == Waiting(0)
    assert set(worker.claim("gang").lease.gpu_uuids) == {"GPU-h5-0", "GPU-h5-1"}


def test_what_can_never_be_is_said_at_once(ask: Ask, seat: Seats) -> None:
    with pytest.raises(ImpossibleRequest):
        ask("100GiB", "job", seat("h1"))


def test_a_crew_waits_for_a_host_with_a_larger_card(ask: Ask, seat: Seats, broker: Broker) -> None:
    Publisher(broker, "h9").publish([report("GPU-h9", total=24 * GIB)], 600_000)
    assert ask("20GiB", "job", seat("h1")) == Waiting(1)
    assert seat("h9").sit() == "job"


@pytest.mark.parametrize("text", ["h1 w1", "h1 w1 a b", "h1 w1 a;b", "-h1 w1 a"])
def test_a_seat_that_is_none_is_refused(broker: Broker, text: str) -> None:
    request = calls.ask("1GiB", crew="photos", seat=text)
    with pytest.raises(InvalidRequest):
        broker.call("acquire", *request.asking(True))


def test_bad_words_change_nothing(broker: Broker) -> None:
    with pytest.raises(InvalidRequest):
        Seat(broker, "w1", "h1", list("abcdefghijklmnopq"))
    with pytest.raises(BrokerError):
        broker.call("attend", "w1", "h1", "photos", "dance", 1000, 1000)
    assert broker.redis.keys(broker.keys.crew("*")) == []
