"""Where a caller's time goes: the same bytes sent by the public client, by redis-py alone, and by a bare socket."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from benchmarks.load import connected, packed
from benchmarks.meter import Meter
from broker import Broker, calls
from broker.ledger.scripts import script
from broker.units import MIB

WARM, _AT_ONCE = 200, 50


@dataclass(frozen=True, slots=True)
class Spent:
    """Microseconds of one kind of call, as its caller waits, part by part; all are differences of medians."""

    name: str
    #: The call of the public client, and how often a bare EVALSHA's round trip that is.
    whole_us: float
    bare_us: float
    #: A bare EVALSHA that carries the same keys and arguments, by redis-py.
    carrying_us: float
    client_us: float
    redis_py_us: float
    socket_us: float
    script_us: float

    @property
    def ratio(self) -> float:
        """In multiples of a bare EVALSHA's round trip."""
        return self.whole_us / self.bare_us


def measured(broker: Broker, turns: int) -> list[Spent]:
    """``return 1``, acquire and release, each in its ways, in turn: a machine that slows down slows all of them."""
    ways, times, done = _Ways(broker), dict[str, list[float]](), 0
    while done < turns + WARM:
        # Laid out beforehand: a pause before a call has the processors rest, and then the call takes longer.
        prepared = [ways.turn() for _ in range(_AT_ONCE)]
        for turn in prepared:
            for name, call in turn:
                begun = time.perf_counter()
                call()
                spent = (time.perf_counter() - begun) * 1e6
                if done >= WARM and turn is not prepared[0]:
                    times.setdefault(name, []).append(spent)
            done += 1
    seen = {name: median(spans) for name, spans in times.items()}
    inside = _server_side(broker, min(turns, 1000))
    return [_spent(name, seen, inside) for name in ("return 1", "acquire", "release")]


def _spent(name: str, seen: dict[str, float], inside: dict[str, float]) -> Spent:
    carried = seen.get(f"{name}, carried by redis-py", seen[name])
    raw = seen[f"{name}, carried by a socket"]
    # `return 1` has no client of ours: redis-py is called as it is.
    client = seen[name] - seen[f"{name}, by redis-py"] if f"{name}, by redis-py" in seen else 0.0
    return Spent(
        name, seen[name], seen["return 1"], carried, client, carried - raw, raw - inside["return 1"], inside[name]
    )


class _Ways:
    """Every way to make every call, prepared so that what is timed is the call alone."""

    def __init__(self, broker: Broker) -> None:
        self.broker, self.keys = broker, broker.keys.declared
        self.bare = broker.redis.script_load("return 1")
        self.shas = {name: broker.redis.script_load(script(name).text) for name in ("acquire", "release")}
        self.socket = connected(broker.url)
        self.number = 0
        self.lease: Any = None
        self.reply: Any = None

    def turn(self) -> list[tuple[str, Callable[[], object]]]:
        """All of them once, in their order: what is borrowed is given back."""
        self.number += 1
        own = calls.ask(MIB, lease_id=f"by-redis-py-{self.number}").asking(False)
        asks = (self.bare, len(self.keys), *self.keys, *own)
        gives = (self.bare, len(self.keys), *self.keys, own[0], 1 << 49)
        return [
            ("return 1", lambda: self._ask(self.bare, 0)),
            ("return 1, carried by a socket", self._sending(self.bare, 0)),
            ("acquire", self._acquire),
            ("release", lambda: self.lease.release()),
            ("return 1", lambda: self._ask(self.bare, 0)),
            ("acquire, carried by redis-py", lambda: self._ask(*asks)),
            ("acquire, carried by a socket", self._sending(*asks)),
            ("release, carried by redis-py", lambda: self._ask(*gives)),
            ("release, carried by a socket", self._sending(*gives)),
            ("acquire, by redis-py", lambda: self._acquire_plain(own)),
            ("release, by redis-py", lambda: self._release_plain(own[0])),
        ]

    def _ask(self, *words: str | int) -> Any:
        return self.broker.redis.execute_command("EVALSHA", *words)  # type: ignore[no-untyped-call]

    def _sending(self, *words: str | int) -> Callable[[], object]:
        command = packed("EVALSHA", *words)

        def send() -> object:
            self.socket.sendall(command)
            return self.socket.recv(4096)

        return send

    def _acquire(self) -> None:
        self.lease = self.broker.acquire(MIB)

    def _acquire_plain(self, own: tuple[str | int, ...]) -> None:
        self.reply = self._ask(self.shas["acquire"], len(self.keys), *self.keys, *own)

    def _release_plain(self, name: str | int) -> None:
        self._ask(self.shas["release"], len(self.keys), *self.keys, name, self.reply[1])


def _server_side(broker: Broker, times: int) -> dict[str, float]:
    """Microseconds of server time of each kind of call."""
    meter, leases = Meter(broker, times), list[Any]()
    return {
        "return 1": meter.bare().mean_us,
        "acquire": meter.measure(lambda _: leases.append(broker.acquire(MIB))).mean_us,
        "release": meter.measure(lambda _: leases.pop().release()).mean_us,
    }
