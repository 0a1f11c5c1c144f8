"""A pool's keys in memory, as the commands of a replication stream leave them, and what each transaction touched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

Command = Sequence[str]

#: Commands that say nothing about keys.
SILENT = frozenset({
    "SELECT", "PING", "MULTI", "EXEC", "REPLCONF", "SCRIPT", "FUNCTION", "PUBLISH", "SPUBLISH", "CLUSTER", "VALKEY",
})  # fmt: skip
FLUSHES = frozenset({"FLUSHALL", "FLUSHDB"})


class UnknownCommand(Exception):
    """A command on a key of the pool whose effect is not known here."""


@dataclass(slots=True)
class Step:
    """What one transaction did. Keys without the pool's prefix."""

    commands: Sequence[Command]
    #: Every hash that was touched, as it was before; ``None`` if it was not there.
    before: dict[str, dict[str, str] | None] = field(default_factory=dict)
    #: Members that were touched, by the key of their sorted set or set.
    members: dict[str, set[str]] = field(default_factory=dict)
    deleted: set[str] = field(default_factory=set)
    events: list[dict[str, str]] = field(default_factory=list)
    flushed: bool = False
    #: Whether any key of the pool was written at all.
    writes: bool = False

    def suffixes(self, prefix: str) -> list[str]:
        """What follows ``prefix`` in the names of the hashes that were touched."""
        return [key[len(prefix) :] for key in self.before if key.startswith(prefix)]

    def kinds_of(self, lease_id: str) -> set[str]:
        """The kinds of the events that name this lease."""
        return {event["kind"] for event in self.events if event.get("id") == lease_id}


class Mirror:
    """The copy. Streams are not kept: entries of the journal are handed on with their transaction."""

    def __init__(self, root: str) -> None:
        """Start empty; ``root`` is the prefix of all of the pool's keys."""
        self.root = root
        self.hashes: dict[str, dict[str, str]] = {}
        self.zsets: dict[str, dict[str, float]] = {}
        self.sets: dict[str, set[str]] = {}
        self.lists: dict[str, list[str]] = {}
        self.strings: dict[str, str] = {}
        self._step = Step(())

    def hash(self, key: str) -> dict[str, str]:
        """A hash, empty if there is none."""
        return self.hashes.get(key, {})

    def zset(self, key: str) -> dict[str, float]:
        """A sorted set, empty if there is none."""
        return self.zsets.get(key, {})

    def clear(self) -> None:
        """Forget every key."""
        for kind in self._kinds():
            kind.clear()

    def _kinds(self) -> tuple[dict[str, Any], ...]:
        return self.hashes, self.zsets, self.sets, self.lists, self.strings

    def load(self, client: redis.Redis) -> None:
        """Read the whole pool anew through a client that decodes its replies. Nothing else may write meanwhile."""
        self.clear()
        read: Any = client
        for name in read.scan_iter(f"{self.root}*", count=1000):
            key = name.removeprefix(self.root)
            kind = read.type(name)
            if kind == "hash":
                self.hashes[key] = read.hgetall(name)
            elif kind == "zset":
                pairs = read.zrange(name, 0, -1, withscores=True)
                self.zsets[key] = {member: float(score) for member, score in pairs}
            elif kind == "set":
                self.sets[key] = set(read.smembers(name))
            elif kind == "list":
                self.lists[key] = read.lrange(name, 0, -1)
            elif kind == "string":
                self.strings[key] = read.get(name)

    def apply(self, commands: Sequence[Command]) -> Step:
        """Carry a transaction out and tell what it touched.

        Raises:
            UnknownCommand: one of its commands is not known; those before it were carried out.
        """
        self._step = step = Step(commands)
        for command in commands:
            name = command[0].upper()
            if name in FLUSHES:
                self.clear()
                self._step = step = Step(commands, flushed=True, writes=True)
            elif name in ("DEL", "UNLINK"):
                for key in command[1:]:
                    if key.startswith(self.root):
                        step.writes = True
                        self._delete(key.removeprefix(self.root))
            elif len(command) > 1 and command[1].startswith(self.root):
                step.writes = True
                effect = _EFFECTS.get(name)
                if effect is None:
                    raise UnknownCommand(f"{name} on {command[1]}")
                effect(self, command[1].removeprefix(self.root), command[2:])
            elif name not in SILENT and any(word.startswith(self.root) for word in command):
                raise UnknownCommand(" ".join(command[:4]))
        return step

    # -- effects -------------------------------------------------------------------------------------------------------

    def _hash_of(self, key: str) -> dict[str, str]:
        fields = self.hashes.get(key)
        if key not in self._step.before:
            self._step.before[key] = None if fields is None else dict(fields)
        if fields is None:
            fields = self.hashes[key] = {}
        return fields

    def _touch(self, key: str, members: Sequence[str]) -> None:
        self._step.members.setdefault(key, set()).update(members)

    def _delete(self, key: str) -> None:
        if key in self.hashes:
            self._hash_of(key)
            self._step.deleted.add(key)
        for members in (self.zsets.get(key), self.sets.get(key)):
            if members:
                self._touch(key, list(members))
        for kind in self._kinds():
            kind.pop(key, None)

    def _hset(self, key: str, args: Command) -> None:
        self._hash_of(key).update(zip(args[::2], args[1::2], strict=True))

    def _hdel(self, key: str, args: Command) -> None:
        fields = self._hash_of(key)
        for name in args:
            fields.pop(name, None)
        if not fields:
            self._delete(key)

    def _hincrby(self, key: str, args: Command) -> None:
        fields = self._hash_of(key)
        fields[args[0]] = str(int(fields.get(args[0], "0")) + int(args[1]))

    def _zadd(self, key: str, args: Command) -> None:
        first = next(i for i, word in enumerate(args) if word.upper() not in ("NX", "XX", "GT", "LT", "CH"))
        flags = {word.upper() for word in args[:first]}
        zset = self.zsets.setdefault(key, {})
        for text, member in zip(args[first::2], args[first + 1 :: 2], strict=True):
            score, known = float(text), zset.get(member)
            kept = known is not None and (
                "NX" in flags or ("GT" in flags and score <= known) or ("LT" in flags and score >= known)
            )
            if not kept and not (known is None and "XX" in flags):
                zset[member] = score
        self._touch(key, args[first + 1 :: 2])

    def _zincrby(self, key: str, args: Command) -> None:
        zset = self.zsets.setdefault(key, {})
        zset[args[1]] = zset.get(args[1], 0.0) + float(args[0])
        self._touch(key, args[1:2])

    def _zrem(self, key: str, args: Command) -> None:
        zset = self.zsets.get(key, {})
        for member in args:
            zset.pop(member, None)
        self._touch(key, args)
        if not zset:
            self.zsets.pop(key, None)

    def _sadd(self, key: str, args: Command) -> None:
        self.sets.setdefault(key, set()).update(args)
        self._touch(key, args)

    def _srem(self, key: str, args: Command) -> None:
        members = self.sets.get(key, set())
        members.difference_update(args)
        self._touch(key, args)
        if not members:
            self.sets.pop(key, None)

    def _set(self, key: str, args: Command) -> None:
        self.strings[key] = args[0]

    def _rpush(self, key: str, args: Command) -> None:
        self.lists.setdefault(key, []).extend(args)

    def _lpop(self, key: str, args: Command) -> None:
        items = self.lists.get(key, [])
        del items[: int(args[0]) if args else 1]
        if not items:
            self.lists.pop(key, None)

    def _lrem(self, key: str, args: Command) -> None:
        """From the front, or with a count of 0 all of them; a script needs no other."""
        items = self.lists.get(key, [])
        for _ in range(int(args[0]) or items.count(args[1])):
            if args[1] in items:
                items.remove(args[1])
        if not items:
            self.lists.pop(key, None)

    def _xadd(self, key: str, args: Command) -> None:
        if key != "events":
            return
        at = 0
        while args[at].upper() in ("NOMKSTREAM", "MAXLEN", "MINID", "=", "~", "LIMIT") or (
            at > 0 and args[at - 1].upper() in ("MAXLEN", "MINID", "=", "~", "LIMIT")
        ):
            at += 1
        fields = dict(zip(args[at + 1 :: 2], args[at + 2 :: 2], strict=True))
        self._step.events.append(fields | {"stream_id": args[at]})

    def _nothing(self, key: str, args: Command) -> None:
        """A key's time to live, or a stream's length: not part of the copy."""


_EFFECTS: dict[str, Callable[[Mirror, str, Command], None]] = {
    "HSET": Mirror._hset,
    "HMSET": Mirror._hset,
    "HDEL": Mirror._hdel,
    "HINCRBY": Mirror._hincrby,
    "ZADD": Mirror._zadd,
    "ZINCRBY": Mirror._zincrby,
    "ZREM": Mirror._zrem,
    "SADD": Mirror._sadd,
    "SREM": Mirror._srem,
    "SET": Mirror._set,
    "RPUSH": Mirror._rpush,
    "LPOP": Mirror._lpop,
    "LREM": Mirror._lrem,
    "BLPOP": Mirror._lpop,
    "XADD": Mirror._xadd,
    "XTRIM": Mirror._nothing,
    "PEXPIREAT": Mirror._nothing,
    "PEXPIRE": Mirror._nothing,
    "PERSIST": Mirror._nothing,
}
