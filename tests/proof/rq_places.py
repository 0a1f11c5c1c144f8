"""Where RQ keeps each job, as the replication stream tells it: in one place at every committed state.

A job is in a queue, popped (in a queue's intermediate list), parked or scheduled, deferred, ready, started, finished or
failed. Popped and started at once is RQ's own way into a start; any other two are two runs to come, and none is a loss.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from tests.proof.mirror import Command

PLACES = ("queue", "popped", "scheduled", "deferred", "ready", "wip", "finished", "failed")
#: Places out of which a job comes again.
OPEN = frozenset(PLACES) - {"finished", "failed"}
_ALLOWED = ({"popped", "wip"},)
_JOB = "rq:job:"


def place_of(key: str) -> str | None:
    """The place that a key of RQ's stands for, or ``None`` if it is none."""
    words = key.split(":")
    if len(words) == 4 and words[:2] == ["rq", "queue"] and words[3] == "intermediate":
        return "popped"
    if len(words) != 3 or words[0] != "rq":
        return None
    return words[1] if words[1] in PLACES else None


class Places:
    """A copy of RQ's lists and registries of job ids."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        #: How often each job is in each place; started jobs once for each execution.
        self.jobs: dict[str, Counter[str]] = defaultdict(Counter)
        self.status: dict[str, str] = {}
        self.retries: dict[str, int] = {}
        self._members: dict[str, list[str]] = defaultdict(list)
        self._scores: dict[str, dict[str, float]] = defaultdict(dict)
        #: The jobs of the newest transaction.
        self.touched: set[str] = set()

    def take(self, commands: Sequence[Command]) -> Iterator[str]:
        """Carry a transaction out; yields what is wrong after it."""
        self.touched = set()
        for command in commands:
            self._apply(command)
        for job in self.touched & self.status.keys():
            now = {place for place, count in self.jobs[job].items() if count > 0}
            many = [place for place, count in self.jobs[job].items() if count > 1]
            if not now:
                yield f"{job} ({self.status[job]}) is nowhere: lost"
            elif many or (len(now) > 1 and now not in _ALLOWED):
                yield f"{job} ({self.status[job]}) is in {sorted(self.jobs[job].elements())}: it would run twice"

    def _apply(self, command: Command) -> None:
        name = command[0].upper()
        if name in ("DEL", "UNLINK"):
            for key in command[1:]:
                self._clear(key)
        elif name in ("LMOVE", "BLMOVE"):
            self._move(*command[1:5])
        elif len(command) > 2 and command[1].startswith(_JOB) and name in ("HSET", "HMSET"):
            self._note(command[1].removeprefix(_JOB), dict(zip(command[2::2], command[3::2], strict=True)))
        elif len(command) > 1 and place_of(command[1]) is not None:
            effect = _EFFECTS.get(name)
            if effect is None:
                raise ValueError(f"{name} on {command[1]}")
            effect(self, command[1], command[2:])

    def _note(self, job: str, fields: dict[str, str]) -> None:
        if "status" in fields:
            self.status[job] = fields["status"]
            self.touched.add(job)
        if "retries_left" in fields:
            self.retries[job] = int(fields["retries_left"])

    def _count(self, key: str, member: str, by: int) -> None:
        place = place_of(key)
        if place is not None:
            job = member.partition(":")[0]
            self.jobs[job][place] += by
            self.touched.add(job)

    def _clear(self, key: str) -> None:
        for member in (*self._members.pop(key, ()), *self._scores.pop(key, ())):
            self._count(key, member, -1)

    # -- lists ---------------------------------------------------------------------------------------------------------

    def _move(self, source: str, target: str, where_from: str, where_to: str) -> None:
        if place_of(source) is None or not self._members[source]:
            return
        member = self._members[source].pop(0 if where_from.upper() == "LEFT" else -1)
        self._count(source, member, -1)
        self._push(target, [member], front=where_to.upper() == "LEFT")

    def _push(self, key: str, members: Sequence[str], *, front: bool) -> None:
        for member in members:
            self._members[key].insert(0 if front else len(self._members[key]), member)
            self._count(key, member, 1)

    def _lpush(self, key: str, args: Command) -> None:
        self._push(key, args, front=True)

    def _rpush(self, key: str, args: Command) -> None:
        self._push(key, args, front=False)

    def _lrem(self, key: str, args: Command) -> None:
        count, member = int(args[0]), args[1]
        for _ in range(abs(count) or self._members[key].count(member)):
            if member in self._members[key]:
                self._members[key].remove(member)
                self._count(key, member, -1)

    def _lpop(self, key: str, args: Command) -> None:
        for _ in range(int(args[0]) if args else 1):
            self._count(key, self._members[key].pop(0), -1)

    # -- registries ----------------------------------------------------------------------------------------------------

    def _zadd(self, key: str, args: Command) -> None:
        first = next(i for i, word in enumerate(args) if word.upper() not in ("NX", "XX", "GT", "LT", "CH"))
        scores = self._scores[key]
        for text, member in zip(args[first::2], args[first + 1 :: 2], strict=True):
            if member not in scores:
                if "XX" in {word.upper() for word in args[:first]}:
                    continue
                self._count(key, member, 1)
            scores[member] = float(text)

    def _zrem(self, key: str, args: Command) -> None:
        for member in args:
            if self._scores[key].pop(member, None) is not None:
                self._count(key, member, -1)

    def _zremrangebyscore(self, key: str, args: Command) -> None:
        if args[0].startswith("(") or args[1].startswith("("):
            raise ValueError(f"ZREMRANGEBYSCORE {key} {args}")
        low, high = float(args[0]), float(args[1])
        self._zrem(key, [member for member, score in self._scores[key].items() if low <= score <= high])

    def _nothing(self, key: str, args: Command) -> None:
        """A key's time to live."""


_EFFECTS = {
    "LPUSH": Places._lpush,
    "RPUSH": Places._rpush,
    "LREM": Places._lrem,
    "LPOP": Places._lpop,
    "ZADD": Places._zadd,
    "ZREM": Places._zrem,
    "ZREMRANGEBYSCORE": Places._zremrangebyscore,
    "EXPIRE": Places._nothing,
    "PEXPIREAT": Places._nothing,
    "PERSIST": Places._nothing,
}
