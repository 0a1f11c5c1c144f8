-- Tenants: what each holds, has used lately, may hold.
-- needs: keys ledger
-- gives: tenant_of charge within_quota

local tenants = {} -- each read once a script

-- Usage in MiB-seconds, older use counting less: it halves every usage_half_life_seconds. While `leased` is constant,
-- u' = leased - u / tau, hence u(t) = u0 e^(-t/tau) + leased tau (1 - e^(-t/tau)).
local function used_by_now(usage, leased_mib, seconds)
  if seconds <= 0 then return usage end
  local tau = state[13] and tonumber(state[13]) or 5193.7 -- half-life / ln 2, as configure.lua keeps it
  local kept = math.exp(-seconds / tau)
  return usage * kept + leased_mib * tau * (1 - kept)
end

-- A tenant; and the text of one field more, where it is read just now.
function tenant_of(name, field)
  local t = tenants[name]
  if t then return t, field and call('HGET', TENANT_OF .. name, field) end
  local f = call('HMGET', TENANT_OF .. name, 'quota_bytes', 'weight_milli', 'leased_bytes', 'usage', 'usage_at',
    'held_up', field or 'held_up')
  local leased = f[3] and tonumber(f[3]) or 0
  t = { name = name, known = f[3], quota = f[1] and tonumber(f[1]) or 0, weight = f[2] and tonumber(f[2]) / 1000 or 1,
    leased = leased, held_up = f[6] or '',
    usage = used_by_now(f[4] and tonumber(f[4]) or 0, leased / MIB, f[5] and (now - tonumber(f[5])) / 1000 or 0) }
  tenants[name] = t
  return t, field and f[7]
end

-- What a tenant holds changed by so many bytes; further fields are written along.
function charge(t, bytes, ...)
  if not t.known then
    call('SADD', TENANTS, t.name)
    t.known = true
  end
  t.leased = t.leased + bytes
  call('HSET', TENANT_OF .. t.name, 'leased_bytes', int(t.leased), 'usage', format('%.3f', t.usage),
    'usage_at', int(now), ...)
end

-- Whether so many more bytes stay within the tenant's quota; 0 is no quota.
function within_quota(t, bytes)
  return t.quota == 0 or t.leased + bytes <= t.quota
end
