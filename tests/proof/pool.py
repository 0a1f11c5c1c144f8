"""A whole pool, read in one step between two scripts, as plain values."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import redis

from broker.ledger.keys import Keys
from broker.snapshot import Snapshot

_READ = """
local found = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do
  local kind = redis.call('TYPE', key).ok
  if kind == 'hash' then found[key] = redis.call('HGETALL', key)
  elseif kind == 'set' then found[key] = redis.call('SMEMBERS', key)
  elseif kind == 'string' then found[key] = { redis.call('GET', key) }
  elseif kind == 'zset' then found[key] = redis.call('ZRANGE', key, 0, -1, 'WITHSCORES') end
  if found[key] then table.insert(found[key], 1, kind) end
end
return cjson.encode({ keys = found, events = redis.call('XRANGE', ARGV[2], '(' .. ARGV[3], '+') })
"""


@dataclass(slots=True)
class Reading:
    """Every key of a pool, without its prefix, and the journal since the last reading."""

    keys: Keys
    hashes: dict[str, dict[str, str]] = field(default_factory=dict)
    zsets: dict[str, dict[str, float]] = field(default_factory=dict)
    sets: dict[str, set[str]] = field(default_factory=dict)
    strings: dict[str, str] = field(default_factory=dict)
    events: list[dict[str, str]] = field(default_factory=list)
    last_event: str = "0"

    def hash(self, key: str) -> dict[str, str]:
        """A hash, empty if there is none."""
        return self.hashes.get(key, {})

    def zset(self, key: str) -> dict[str, float]:
        """A sorted set, empty if there is none."""
        return self.zsets.get(key, {})

    def named(self, kind: str) -> dict[str, dict[str, str]]:
        """The hashes of one kind (``"lease:"``), by their names."""
        return {key.removeprefix(kind): fields for key, fields in self.hashes.items() if key.startswith(kind)}

    @property
    def snapshot(self) -> Snapshot:
        """The same for ``broker.fsck.compare``."""
        root, known = self.keys.root, (self.keys.gpus, self.keys.hosts, self.keys.tenants, self.keys.groups)
        empty: dict[str, set[str]] = {key: set() for key in (*known, self.keys.stale)}
        sets = empty | {root + key: members for key, members in self.sets.items()}
        hashes = {root + key: fields for key, fields in self.hashes.items() if key != "config"}
        return Snapshot(self.keys, hashes, {root + key: scores for key, scores in self.zsets.items()}, sets)


def read(client: redis.Redis, keys: Keys, after: str = "0") -> Reading:
    """Read it all; of the journal what came after the stream id ``after``."""
    answer = json.loads(client.eval(_READ, 0, keys.root, keys.events, after))
    reading = Reading(keys, last_event=after)
    for name, (kind, *flat) in (answer["keys"] or {}).items():
        key = name.removeprefix(keys.root)
        if kind == "hash":
            reading.hashes[key] = _paired(flat)
        elif kind == "zset":
            reading.zsets[key] = {member: float(score) for member, score in _paired(flat).items()}
        elif kind == "set":
            reading.sets[key] = set(flat)
        else:
            reading.strings[key] = flat[0]
    for stream_id, flat in answer["events"] or ():
        reading.events.append(_paired(flat))
        reading.last_event = stream_id
    return reading


def _paired(flat: list[str]) -> dict[str, str]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
