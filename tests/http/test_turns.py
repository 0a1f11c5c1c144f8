"""Work that is the same for all is done once for all who wait."""

from __future__ import annotations

import asyncio

import pytest

from broker.errors import PoolUnavailable
from broker.http.turns import Turns


async def test_who_waits_shares_the_next_one() -> None:
    done, go = 0, asyncio.Event()

    async def work() -> int:
        nonlocal done
        await go.wait()
        done += 1
        return done

    turns = Turns(work)
    first = asyncio.create_task(turns.take())
    await asyncio.sleep(0.01)  # it is under way
    others = [asyncio.create_task(turns.take()) for _ in range(50)]
    await asyncio.sleep(0.01)
    go.set()
    assert await first == 1
    assert await asyncio.gather(*others) == [2] * 50  # none of them gets what began before he asked
    assert await turns.take() == 3


async def test_a_failure_is_told_to_all_who_wait_and_to_nobody_after() -> None:
    tries, go = 0, asyncio.Event()

    async def work() -> str:
        nonlocal tries
        tries += 1
        await go.wait()
        if tries <= 2:
            raise PoolUnavailable("away")
        return "back"

    turns = Turns(work)
    asking = [asyncio.create_task(turns.take()) for _ in range(20)]
    await asyncio.sleep(0.01)
    go.set()
    told = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(one, PoolUnavailable) for one in told)
    assert tries == 2
    assert await turns.take() == "back"


async def test_who_goes_while_it_is_under_way_holds_nobody_up() -> None:
    go = asyncio.Event()

    async def work() -> int:
        await go.wait()
        return 1

    turns = Turns(work)
    gone, waits = asyncio.create_task(turns.take()), asyncio.create_task(turns.take())
    await asyncio.sleep(0.01)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    go.set()
    assert await waits == 1
