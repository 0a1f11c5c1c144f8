"""A host that is not there: cards whose heat, power, load and memory answer to the leases on them.

SPEC is ``COUNTxCARD[,OPTION=VALUE...]``. CARD is a memory size (``6GiB``, ``80GB``) or ``NAME-SIZE`` (``A100-80GB``).
Options: ``ambient`` °C around the host (25), ``tau`` seconds in which a card gets two thirds of the way to the heat its
power asks for (30), ``hot`` index of a card that is badly cooled (none).
"""

from __future__ import annotations

import math
import re
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from agent.sources import Held, Process, Reading, sane
from broker.errors import InvalidRequest
from broker.units import MIB, format_size, parse_size
from broker.values import HeldLease, State

_SPEC = re.compile(
    r"(?P<count>[0-9]{1,2})x(?:(?P<name>[A-Za-z][A-Za-z0-9 ]{0,31})-)?(?P<size>[0-9.]+ ?[A-Za-z]+)", re.ASCII
)
_ALLOWED = "COUNTxSIZE or COUNTxNAME-SIZE with 1 to 64 cards, such as 2x6GiB or 1xA100-80GB, then ,ambient= ,tau= ,hot="
_BOUNDS = {"ambient": (0.0, 60.0), "tau": (0.1, 3600.0), "hot": (0.0, 63.0)}
_NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 4122's namespace for URLs

#: A small studio card: watts idle and at its limit, and °C that each watt adds in the end, well and badly cooled. From
#: 25 °C and with one job on it the first ends at 65 °C at full speed; the second at 95, at speed 0.8 at 82, at 0.5
#: at 63: it throttles, and recovers by that.
IDLE_W, LIMIT_W = 15.0, 160.0
C_PER_W, C_PER_W_HOT = 0.275, 0.48
#: What one job of a lease keeps a card busy, and seconds in which its memory fills.
LOAD_OF_A_LEASE = 0.9
RAMP_SECONDS = 1.0
RESERVED_BYTES = 200 * MIB


@dataclass(frozen=True, slots=True)
class Spec:
    """A simulated host, checked."""

    count: int
    name: str
    memory_bytes: int
    ambient_c: float = 25.0
    tau_s: float = 30.0
    hot: int | None = None


def parse_spec(text: str) -> Spec:
    """The host that ``text`` describes.

    Raises:
        InvalidRequest: not such a SPEC; names the part, its value and what is allowed.
    """
    head, *options = text.split(",")
    found = _SPEC.fullmatch(head)
    if not found or not 1 <= int(found["count"]) <= 64:
        raise InvalidRequest("--simulate", text, _ALLOWED)
    memory = parse_size(found["size"], "--simulate")
    if memory < 512 * MIB:
        raise InvalidRequest("--simulate", text, "cards of at least 512MiB")
    values: dict[str, float] = {}
    for option in options:
        name, _, value = option.partition("=")
        if name not in _BOUNDS:
            raise InvalidRequest("--simulate", option, _ALLOWED)
        least, most = _BOUNDS[name]
        try:
            values[name] = float(value)
        except ValueError:
            values[name] = math.nan
        if not least <= values[name] <= most:
            raise InvalidRequest(f"--simulate {name}", value, f"a number from {least:g} to {most:g}")
    hot = values.get("hot")
    if hot is not None and (hot != int(hot) or hot >= int(found["count"])):
        raise InvalidRequest("--simulate hot", f"{hot:g}", f"the index of a card, 0 to {int(found['count']) - 1}")
    name = found["name"] or f"Simulated {format_size(memory)}"
    return Spec(int(found["count"]), name, memory, values.get("ambient", 25.0), values.get("tau", 30.0),
                None if hot is None else int(hot))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Card:
    """The physical state of one simulated card: °C, watts, share of time busy 0 to 1, bytes of each lease's job."""

    temperature_c: float
    power_w: float
    load: float
    filled: Mapping[str, float]


def step(card: Card, held: Sequence[HeldLease], speed: float, seconds: float, spec: Spec, c_per_w: float) -> Card:
    """The card ``seconds`` later, with these leases on it and its jobs working at ``speed`` (0.0 to 1.0).

    Load is the share of time in which at least one job works; power is linear in it; the temperature approaches
    ``ambient + c_per_w * power`` exponentially with ``tau`` (Newton's law of cooling).
    """
    load = (1 - (1 - LOAD_OF_A_LEASE) ** len(held)) * speed
    power = IDLE_W + (LIMIT_W - IDLE_W) * load
    target = spec.ambient_c + c_per_w * power
    temperature = target + (card.temperature_c - target) * math.exp(-seconds / spec.tau_s)
    share = 1 - math.exp(-seconds / RAMP_SECONDS)
    filled = {
        lease.id: (before := card.filled.get(lease.id, 0.0)) + (lease.memory_bytes - before) * share for lease in held
    }
    return Card(temperature, power, load, filled)


class SimulatedSource:
    """A simulated host in real time."""

    name = "simulated"

    def __init__(self, host: str, spec: Spec, clock: Callable[[], float] = time.monotonic) -> None:
        """Cards at rest. Their UUIDs follow from the host's name, so a restart keeps them."""
        self._spec = spec
        self._clock = clock
        self._uuids = [f"GPU-{uuid.uuid5(_NAMESPACE, f'gpubroker:{host}:{index}')}" for index in range(spec.count)]
        at_rest = spec.ambient_c + C_PER_W * IDLE_W
        self._cards = [Card(at_rest, IDLE_W, 0.0, {}) for _ in self._uuids]
        self._at = clock()
        self._speeds: Mapping[str, float] = {}

    def published(self, states: Mapping[str, State]) -> None:
        """Jobs work at the speed that their card's state asks for from now on."""
        self._speeds = {name: state.speed for name, state in states.items()}

    def read(self, held: Held) -> list[Reading]:
        """Let the time since the last reading pass, with the leases of now, and look."""
        leases = held(self._uuids)
        now = self._clock()
        seconds, self._at = now - self._at, now
        for index, name in enumerate(self._uuids):
            resistance = C_PER_W_HOT if index == self._spec.hot else C_PER_W
            self._cards[index] = step(
                self._cards[index], leases.get(name, ()), self._speeds.get(name, 1.0), seconds, self._spec, resistance
            )
        return [self._reading(index, leases.get(name, ())) for index, name in enumerate(self._uuids)]

    def _reading(self, index: int, held: Sequence[HeldLease]) -> Reading:
        card, total = self._cards[index], self._spec.memory_bytes
        used = int(sum(card.filled.values()))
        return sane(
            Reading(
                uuid=self._uuids[index],
                index=index,
                name=self._spec.name,
                memory_total_bytes=total,
                memory_used_bytes=min(total, used),
                memory_reserved_bytes=RESERVED_BYTES,
                temperature_c=round(card.temperature_c),
                utilization_percent=round(100 * card.load),
                power_mw=round(1000 * card.power_w),
                # A simulated process runs under each lease's own pid: nothing on these cards is a stranger's.
                processes=tuple(Process(one.pid, int(card.filled[one.id])) for one in held if one.pid is not None),
            )
        )

    def close(self) -> None:
        """Nothing to let go."""
