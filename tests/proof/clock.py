"""Moves time without waiting for it: what the ledger remembers is moved the other way, so that just so much has passed.

The ledger reads Redis's clock, which no test can set. A ledger all of whose times lie ``ms`` further back is in the
very state that it would be in ``ms`` later, had nobody run a script meanwhile: so a test may let an hour pass in a
millisecond, also the hour by which somebody set the clock forward or back.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import redis

from broker.ledger.keys import Keys

#: Every time that the ledger keeps. Zero is "never", and what is nine digits above today "not at all".
_SHIFT = """
local root, ms = ARGV[1], tonumber(ARGV[2])
local function moved(text) return string.format('%d', tonumber(text) - ms) end
local function kept(text) return not text or text == '' or tonumber(text) == 0 or tonumber(text) > 2^50 end
local FIELDS = {
  ledger = { 'clock_ms', 'soonest', 'grace_until', 'settling_until' },
  lease = { 'created_at', 'expires_at', 'revoke_at', 'seen_until' },
  gpu = { 'fresh_until', 'sampled_at' },
  host = { 'fresh_until', 'sampled_at' },
  waiter = { 'deadline', 'since' },
  tenant = { 'usage_at' },
}
for _, key in ipairs(redis.call('KEYS', root .. '*')) do
  local name = string.sub(key, #root + 1)
  local kind = string.match(name, '^(%a+):') or name
  for _, field in ipairs(FIELDS[kind] or {}) do
    local text = redis.call('HGET', key, field)
    if not kept(text) then redis.call('HSET', key, field, moved(text)) end
  end
  if name == 'leases' or name == 'fresh' or name == 'waiting' then
    for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
      redis.call('ZADD', key, moved(redis.call('ZSCORE', key, member)), member)
    end
  end
  local left = redis.call('PTTL', key)
  if left >= 0 then redis.call('PEXPIRE', key, left - ms) end
end
"""


def shift(client: redis.Redis, keys: Keys, ms: int) -> None:
    """Let ``ms`` pass for everything that the pool remembers; with a negative number Redis's clock is set back."""
    client.eval(_SHIFT, 0, keys.root, str(ms))


@dataclass(frozen=True, slots=True)
class LedgerClock:
    """The ledger's clock as ``ledger.lua`` keeps it: Redis's, never back, and wary of leaps. All in milliseconds."""

    clock_ms: int = 0
    offset_ms: int = 0
    grace_until: int = 0
    silence_ms: int = 10_000
    grace_ms: int = 15_000

    def at(self, raw: int) -> LedgerClock:
        """The clock in a script that runs when Redis's clock says ``raw``."""
        now, offset, grace = raw + self.offset_ms, self.offset_ms, self.grace_until
        passed = now - self.clock_ms
        if passed < 0:
            offset, now = self.clock_ms - raw, self.clock_ms
        elif self.clock_ms > 0 and passed > self.silence_ms:
            absorbed = min(offset, passed)
            offset, now = offset - absorbed, now - absorbed
            if now - self.clock_ms > self.silence_ms and now - grace > 4 * self.grace_ms:
                grace = now + self.grace_ms
        elif offset > 0:
            absorbed = 0 if passed < 2 else min(offset, -(-passed // 100))
            offset, now = offset - absorbed, now - absorbed
        return replace(self, clock_ms=now, offset_ms=offset, grace_until=grace)

    def moved(self, ms: int) -> LedgerClock:
        """After ``shift`` by so much."""
        grace = self.grace_until - ms if self.grace_until else 0
        return replace(self, clock_ms=self.clock_ms - ms if self.clock_ms else 0, grace_until=grace)
