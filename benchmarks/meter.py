"""What a call costs the server, as the server itself counted it.

The mean is ``usec_per_call`` of EVALSHA from ``INFO commandstats`` between two ``CONFIG RESETSTAT``; the tail is read
from the server's own histogram (``LATENCY HISTOGRAM``, whose buckets double: the figure is a bucket's upper end). The
processor time is the server process's own (``INFO cpu``). ``return 1``, called in the same way, is the measure that
travels: a slow machine slows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from broker import Broker


@dataclass(frozen=True, slots=True)
class Cost:
    """What calls of one kind took."""

    #: Mean server time of a call, in microseconds.
    mean_us: float
    #: Upper end of the bucket in which the p99.9 of server time lies, in microseconds.
    tail_us: float
    #: Median time from the call to its return, as its caller waits, in microseconds.
    round_trip_us: float
    #: Mean processor time of the server for a call, with the reading, the writing and all else around it.
    cpu_us: float = 0.0


class Meter:
    """Server time and round trip of calls that are one EVALSHA each, on the connection of ``broker``."""

    def __init__(self, broker: Broker, calls: int) -> None:
        self.broker, self.calls = broker, calls
        self.bare_sha = broker.redis.script_load("return 1")
        self.number = 0

    def bare(self, times: int | None = None) -> Cost:
        """``return 1``."""
        redis, sha = self.broker.redis, self.bare_sha
        return self.measure(lambda _: redis.execute_command("EVALSHA", sha, 0), times=times)  # type: ignore[no-untyped-call]

    def measure(
        self,
        call: Callable[[int], object],
        after: Callable[[], object] | None = None,
        times: int | None = None,
        scripts: bool = True,
    ) -> Cost:
        """The cost of ``call``, which is given a number that it never had; ``after`` is not measured.

        A call that runs no script (``scripts=False``) is many commands: its mean is the time of all, its tail that of
        its mean.
        """
        spans, times = [], times or self.calls
        self.broker.redis.config_resetstat()
        cpu = self._cpu_seconds()
        for _ in range(times):
            self.number += 1
            begun = time.perf_counter()
            call(self.number)
            spans.append(time.perf_counter() - begun)
        cpu_us = 1e6 * (self._cpu_seconds() - cpu) / times
        mean_us, tail_us = self._scripts() if scripts else self._commands(times)
        if after is not None:
            after()
        return Cost(mean_us, tail_us, median(spans) * 1e6, cpu_us)

    def _cpu_seconds(self) -> float:
        told: Any = self.broker.redis.info("cpu")
        return float(told["used_cpu_user"]) + float(told["used_cpu_sys"])

    def _commands(self, times: int) -> tuple[float, float]:
        """Microseconds of all commands since the reset, for each of so many calls; twice."""
        told: Any = self.broker.redis.info("commandstats")
        mean = (
            sum(of["usec"] for name, of in told.items() if not name.startswith(("cmdstat_config", "cmdstat_info")))
            / times
        )
        return mean, mean

    def _scripts(self) -> tuple[float, float]:
        """Mean, and the bucket in which the p99.9 lies, in microseconds, of all EVALSHA since the reset."""
        told: Any = self.broker.redis.info("commandstats")
        flat: Any = self.broker.redis.execute_command("LATENCY", "HISTOGRAM", "evalsha")  # type: ignore[no-untyped-call]
        counts = _pairs(_pairs(_pairs(flat)["evalsha"])["histogram_usec"])
        total = max(int(count) for count in counts.values())
        tail = min(int(edge) for edge, count in counts.items() if int(count) >= 0.999 * total)
        return float(told["cmdstat_evalsha"]["usec_per_call"]), float(tail)


def _pairs(reply: Any) -> dict[str, Any]:
    """A map of the server's with text for its keys, however the client's protocol shows it."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {key.decode() if isinstance(key, bytes) else str(key): value for key, value in pairs}
