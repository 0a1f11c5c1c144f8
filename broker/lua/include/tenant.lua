-- Tenants: what each holds, has used lately, may hold.
-- needs: keys ledger
-- gives: tenant_of charge within_quota

local tenants = {} -- each read once a script

-- Usage in MiB-seconds, older use counting less: it halves every usage_half_life_seconds. While `leased` is constant,
-- u' = leased - u / tau, hence u(t) = u0 e^(-t/tau) + leased tau (1 - e^(-t/tau)).
local function used_by_now(usage, leased_mib, seconds)
  if seconds <= 0 then return usage end
  local tau = tonumber(state[13] or 5193.7) -- half-life / ln 2, as configure.lua keeps it
  local kept = math.exp(-seconds / tau)
  return usage * kept + leased_mib * tau * (1 - kept)
end

function tenant_of(name)
  local t = tenants[name]
  if t then return t end
  local f = call('HMGET', TENANT_OF .. name, 'quota_bytes', 'weight_milli', 'leased_bytes', 'usage', 'usage_at',
    'held_up')
  t = { name = name, known = f[3], quota = tonumber(f[1] or 0), weight = tonumber(f[2] or 1000) / 1000,
    leased = tonumber(f[3] or 0), held_up = f[6] or '' }
  t.usage = used_by_now(tonumber(f[4] or 0), t.leased / MIB, (now - tonumber(f[5] or now)) / 1000)
  tenants[name] = t
  return t
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
