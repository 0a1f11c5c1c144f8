"""What is refused says what lacks and what to do, and `explain` and `acquire` say the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import Result

from broker import Broker, LeaseConflict, LeaseNotFound, StaleToken
from broker.units import GIB
from broker.values import HostReport

Cli = Callable[..., Result]
Cards = Callable[..., None]


@pytest.fixture
def pool(cards: Cards) -> None:
    """Two cards of one host with 8 GiB and two processors."""
    cards("GPU-a", "GPU-b", told=HostReport(8 * GIB, 2000, "rack=a"), capability="8.6")


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize(("words", "acquired", "explained"), [
    (("1GiB", "--host", "nohost"), "the pool has no host nohost now; start its `gpubroker agent`", "no such host"),
    (("1GiB", "--gpu", "GPU-x"), "the pool has no GPU GPU-x now", "no such GPU"),
    (("1GiB", "--gpu", "GPU-a", "--host", "h2"), "the pool has no GPU GPU-a on host h2 now", "or on another host"),
    (("1GiB", "--label", "rack=b"), "the pool has no GPU of labels rack=b now", "no GPU of that kind"),
    (("1GiB", "--capability", "99.0"), "the pool has no GPU of capability 99.0 now", "no GPU of that kind"),
    (("1GiB", "--mig", "1g.5gb"), "the pool has no GPU of mig 1g.5gb now", "no GPU of that kind"),
    (("1GiB", "--cpus", "1000"), "can never fit: no host has 1000 processors to lend", "so many processors"),
    (("1GiB", "--host-memory", "99GiB"), "no host has 99.0 GiB of memory to lend; ask for less", "so much memory"),
    (("1GiB", "--host-memory", "99GiB", "--host", "h1"), "host h1 has not got 99.0 GiB of memory", "so much memory"),
    (("3x1GiB",), "can never fit: no host has 3 GPUs; ask for fewer", "has 3 GPUs"),
    (("50GiB",), "the largest budget of any GPU is 5.5 GiB; ask for less", "is so large"),
    (("4GiB", "--tenant", "alice"), "it is more than the quota of tenant alice", "the quota of tenant alice"),
])  # fmt: skip
def test_nobody_is_told_to_wait_for_what_is_not_there(
    cli: Cli, broker: Broker, words: tuple[str, ...], acquired: str, explained: str
) -> None:
    broker.set_tenant("alice", quota="3GiB")
    refused = cli("acquire", *words)
    assert refused.exit_code == 1
    assert acquired in refused.stderr
    assert "wait longer" not in refused.stderr
    told = cli("explain", *words).stdout
    assert f"can never be granted as the pool is: {told.partition('is: ')[2]}" in told
    assert explained in told.splitlines()[0]
    assert "may be room" not in told


def test_a_lack_for_now_may_be_waited_for(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a", "GPU-b", told=HostReport(8 * GIB, 2000))
    broker.acquire("5GiB", gpu="GPU-a", host_memory="6GiB")
    for words, why in (
        (("2x4GiB",), "but not on so many GPUs of one host; wait longer"),
        (
            ("1GiB", "--host-memory", "4GiB"),
            "but its host has too little memory or too few processors left; wait longer",
        ),
    ):
        assert why in cli("acquire", *words).stderr


def test_a_number_of_gpus_is_said_once(cli: Cli) -> None:
    result = cli("acquire", "2x1GiB", "--gpus", "3")
    assert result.exit_code == 2
    assert "gpus=3 is not allowed: 2, or nothing" in result.stderr
    assert cli("acquire", "1GiB", "--mig", "zz").exit_code == 2


def test_a_quota_of_a_few_bytes_is_set_with_a_hint(cli: Cli) -> None:
    result = cli("tenants", "set", "studio", "--quota", "32")
    assert (result.exit_code, result.stderr) == (0, "note: 32 is a number of bytes; write 32GiB for GiB\n")


def test_a_verb_whose_extra_is_not_installed_says_how_to_get_it(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.EntryPoint.load", _without_numpy)
    result = cli("demo", "--help")
    assert result.exit_code == 2
    assert "No module named 'numpy': `demo` takes an extra, pip install 'gpubroker[demo]'" in result.stderr


def _without_numpy(entry_point: object) -> object:
    raise ModuleNotFoundError("No module named 'numpy'", name="numpy")


def test_a_few_bytes_are_lent_with_a_hint(cli: Cli, cards: Cards) -> None:
    cards("GPU-a")
    result = cli("acquire", "4")
    assert (result.exit_code, result.stderr) == (0, "note: 4 is a number of bytes; write 4GiB for GiB\n")


def test_a_wrong_token_is_not_answered_with_the_right_one(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("1GiB", lease_id="job")
    with pytest.raises(StaleToken, match=r"mistyped, or another holds it") as told:
        broker.release("job", 999)
    assert str(lease.token) not in str(told.value)
    with pytest.raises(LeaseNotFound, match=r"it ended, or never was; see `gpubroker leases`"):
        broker.release("nosuch", 1)


def test_a_name_taken_by_another_request_says_by_which(broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    broker.acquire("1GiB", lease_id="job")
    with pytest.raises(LeaseConflict, match=r"before: 1\.0 GiB; now: 2 x 2\.0 GiB, host h1, priority 5, tenant red"):
        broker.acquire("2x2GiB", lease_id="job", host="h1", priority=5, tenant="red")


def test_a_holder_hears_why_it_is_asked_to_end(cli: Cli, broker: Broker, cards: Cards) -> None:
    cards("GPU-a")
    lease = broker.acquire("1GiB", lease_id="job")
    assert cli("revoke", "job", "--grace", "20", "--reason", "maintenance at noon").exit_code == 0
    lease.renew()
    assert lease.revoke_reason == "maintenance at noon"
    told = cli("renew", "job", str(lease.token))
    assert "job is wanted back: maintenance at noon" in told.stderr
    assert f"revoke_at={lease.revoke_at}" in told.stdout


@pytest.mark.parametrize(("mark", "says"), [
    ({"gpu": "GPU-a"}, "`gpubroker undrain GPU-a`"), ({"host": "h1"}, "`gpubroker undrain --host h1`"),
])  # fmt: skip
def test_the_undrain_that_helps_is_named(
    cli: Cli, broker: Broker, cards: Cards, mark: dict[str, str], says: str
) -> None:  # fmt: skip
    cards("GPU-a")
    broker.drain(**mark)
    assert says in cli("explain", "1GiB").stdout
