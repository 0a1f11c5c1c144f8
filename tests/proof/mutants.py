"""Bugs on purpose: each is one line of the Lua or the client changed, and the suite must notice every one.

Method: the tree is copied, one mutation is made in the copy, and the tests that should notice it run there until the
first fails. A mutation that no test notices is a hole in the suite. ``python -m tests.proof.mutants [--only WORD]
[--jobs N]``, or ``make mutants``.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("broker", "agent", "worker_hooks", "tests", "pyproject.toml")
LUA, INCLUDE = "broker/lua", "broker/lua/include"
LEARN, SIZES = f"{LUA}/learn.lua", "tests/ledger/test_sizes.py"
LATE, HARD = "tests/ledger/test_late_copies.py", "tests/proof/test_starvation.py"


@dataclass(frozen=True, slots=True)
class Mutant:
    """One line made wrong: ``text`` of ``path``, which must be there once, becomes ``wrong``."""

    name: str
    path: str
    text: str
    wrong: str
    #: The tests that should notice, as pytest takes them.
    tests: str = "tests/ledger"


MUTANTS = (
    Mutant("acquire is not idempotent", f"{INCLUDE}/known.lua", "if not lease[1] then", "if true then"),
    Mutant("a grant does not know how large its cards are", f"{INCLUDE}/totals.lua", "and total or", "and '0' or",
           "tests/ledger/test_totals.py"),
    Mutant("a claim mixes up its request with its cards", f"{LUA}/claim.lua", "reply[i + 3]", "reply[i + 2]",
           "tests/ledger/test_totals.py"),
    Mutant("another request under the same name is let through", f"{INCLUDE}/known.lua",
           "if lease[1] ~= ask.request then", "if false then"),
    Mutant("another request under a waiter's name is let through", f"{INCLUDE}/known.lua",
           "if waiter and waiter.request ~= ask.request then", "if false then"),
    Mutant("a late duplicate takes a new lease", f"{INCLUDE}/known.lua", "return not_before(ask, nonce) and",
           "return false and"),
    Mutant("a copy of a refused call takes a lease", f"{INCLUDE}/known.lua",
           "if not_before(ask, refused) then return nil, true end", ""),
    Mutant("a late resize changes the lease", f"{LUA}/resize.lua", "elseif more ~= 0 and heard(id, nonce) then",
           "elseif false then", LATE),
    Mutant("a late renewal sets the TTL back", f"{LUA}/renew.lua", "and not heard(id, ARGV[4] or '') then", "then",
           LATE),
    Mutant("a late revocation strikes the next lease of the name", f"{LUA}/revoke.lua",
           "if lease and meant ~= '' and lease.token ~= meant then lease = nil end", "", LATE),
    Mutant("a dead agent's first sample is taken", f"{LUA}/publish_sample.lua",
           "string.find(' ' .. lives .. ' ', ' ' .. life .. ' ', 1, true) and 'followed'", "false", LATE),
    Mutant("who was late, and is renewed, does not grow as it asked", f"{INCLUDE}/holder.lua",
           "if lease.expires_at <= now and queued > 0 then", "if false then", "tests/proof/test_walks.py"),
    Mutant("two machines publish as one host", f"{LUA}/publish_sample.lua", "machine ~= before[7]", "false",
           "tests/ledger/test_samples.py"),
    Mutant("an agent's mark stays when it has no reason any more", f"{INCLUDE}/sample.lua",
           "by = with_mark(by, mark, string.find(report.marks, mark, 1, true) ~= nil)",
           "by = string.find(report.marks, mark, 1, true) and with_mark(by, mark, true) or by",
           "tests/ledger/test_samples.py"),
    Mutant("an agent lifts an operator's drain", f"{INCLUDE}/sample.lua",
           "for _, mark in ipairs({ 'health', 'people' }) do\n    by =",
           "by = ''\n  for _, mark in ipairs({ 'health', 'people' }) do\n    by =", "tests/ledger/test_samples.py"),
    Mutant("nobody is served when a card is well again", f"{INCLUDE}/sample.lua", "or was_drained or settling",
           "or settling", "tests/ledger/test_samples.py"),
    Mutant("a lease at its very end is still handed out", f"{INCLUDE}/known.lua",
           "tonumber(lease[4]) <= now and now >= grace_until", "false"),
    Mutant("a claim does not start the lease's own time", f"{INCLUDE}/known.lua",
           "lease[4], lease[8] = int(expires), int(ask.ttl_ms)", "expires = tonumber(lease[4])"),
    Mutant("a waiter that gave up stays in the queue", f"{LUA}/acquire.lua",
           "remove_waiter(ask.id, 'gave up')", "queued = queued"),
    Mutant("the queue has no cap", f"{LUA}/acquire.lua", "queued >= waiters_max", "queued > 2 * waiters_max"),
    Mutant("one byte more than the budget is lent", f"{INCLUDE}/place.lua",
           "card.leased + bytes <= card.budget", "card.leased + bytes <= card.budget + 1"),
    Mutant("a card without a fresh sample lends", f"{INCLUDE}/place.lua",
           "if card.fresh_until < now then return 'silent' end", ""),
    Mutant("a card that is too hot lends", f"{INCLUDE}/gpu.lua",
           "state == 'THROTTLED'", "state == 'THROTTLED' or state == 'CRITICAL'"),
    Mutant("a drained card lends", f"{INCLUDE}/place.lua", "if card.drained then return 'drained' end", "",
           "tests/ledger/test_lease_life.py tests/ledger/test_requests.py tests/ledger/test_selectors.py"),
    Mutant("something is lent while holders register", f"{INCLUDE}/place.lua",
           "if settling then return nil, 'settling' end", "",
           "tests/ledger/test_lost_data.py"),
    Mutant("a quota is not asked", f"{INCLUDE}/tenant.lua", "t.leased + bytes <= t.quota", "true"),
    Mutant("a card that is kept for one is lent to others", f"{INCLUDE}/gpu.lua",
           "if open and free > 0 and card.reserved == '' then", "if open and free > 0 then"),
    Mutant("passing a waiter is not counted", f"{INCLUDE}/reserve.lua",
           "    waiter.bypassed = waiter.bypassed + 1\n", ""),
    Mutant("who can have no card kept for him hides those behind", f"{INCLUDE}/reserve.lua",
           "    but[waiter.id] = true\n", "    return nil\n", HARD),
    Mutant("what a waiter wants of a host does not gather for it", f"{INCLUDE}/host.lua",
           "    memory, cpus = memory + h.kept_memory, cpus + h.kept_cpus\n", "", HARD),
    Mutant("a card of another class stays kept", f"{INCLUDE}/sample.lua",
           "or not (waiter and suits(waiter, card.class)) then", "then", HARD),
    Mutant("a card stays kept for who may not have so much", f"{INCLUDE}/place.lua",
           "if forbidden == #ask.wants and ask.reserved ~= '' then", "if false then", HARD),
    Mutant("leases are preempted for what the quota forbids", f"{INCLUDE}/preempt.lua",
           "allowed and cards_to_keep", "cards_to_keep", HARD),
    Mutant("pushes beyond the note are lost", f"{INCLUDE}/ledger.lua", "left = '*=-inf '", "left = ''",
           "tests/ledger/test_search.py"),
    Mutant("who stands behind many that do not fit is not looked at", f"{INCLUDE}/serve.lua",
           "  if plausible then walk_through() end\n", "",
           "tests/ledger/test_search.py"),
    Mutant("memory is adopted where none is lent", f"{LUA}/adopt.lua", "or anew > 0 and obstacle(ask, card, anew) then",
           "then"),
    Mutant("a gang gets one card less", f"{INCLUDE}/choose.lua",
           "return { unpack(cards, 1, want.count) } end\n      looked",
           "return { unpack(cards, 2, want.count) } end\n      looked"),
    Mutant("tokens repeat", f"{INCLUDE}/grant.lua", "token = token + 1", "token = token + 0"),
    Mutant("a new ledger begins with token 0", f"{INCLUDE}/ledger.lua", "token = epoch * 8388608", "token = 1"),
    Mutant("another primary begins no epoch", f"{LUA}/hello.lua", "if before[1] then", "if false then",
           "tests/ledger/test_lost_data.py"),
    Mutant("any token renews, resizes and releases", f"{INCLUDE}/holder.lua",
           "if lease.token ~= holder then", "if false then"),
    Mutant("a lease that is over is renewed", f"{LUA}/renew.lua", "if is_over(lease) then return lost(lease) end", ""),
    Mutant("a lease that is over passes the start gate", f"{LUA}/start.lua",
           "if is_over(lease) then return lost(lease) end", ""),
    Mutant("a lease that is over grows", f"{LUA}/resize.lua", "if is_over(lease) then return lost(lease) end", ""),
    Mutant("an expired lease's bytes are lent at once", f"{INCLUDE}/reap.lua",
           "lease.state == 'active' and reclaim_ms > 0", "false"),
    Mutant("a process that is seen does not keep its bytes", f"{INCLUDE}/reap.lua", "lease.seen_until > now", "false"),
    Mutant("the word about an older lease ends a newer one", f"{INCLUDE}/sample.lua", "or lease.token ~= v.token", ""),
    Mutant("a script ends all that is over", f"{INCLUDE}/reap.lua",
           "call('ZRANGEBYSCORE', LEASES, '-inf', now, 'LIMIT', 0, 8)", "call('ZRANGEBYSCORE', LEASES, '-inf', now)"),
    Mutant("expiry goes on after a step of the clock", f"{INCLUDE}/turn.lua", "now >= soonest and now >= grace_until",
           "now >= soonest"),
    Mutant("time runs backwards with the clock", f"{INCLUDE}/ledger.lua", "    now = clock_ms\n", ""),
    Mutant("a deadline is forgotten", f"{INCLUDE}/ledger.lua", "if at < soonest then soonest = at end", ""),
    Mutant("bytes are given back twice", f"{INCLUDE}/lease.lua",
           "or call('HDEL', GPU_OF .. uuid, 'lease:' .. id) == 0 then", "then"),
    Mutant("a tenant's bytes are not given back", f"{INCLUDE}/lease.lua",
           "charge(t, -bytes, field,", "charge(t, 0, field,"),
    Mutant("a host's memory is not given back", f"{INCLUDE}/lease.lua",
           "charge_host(lease.host, -lease.host_memory, -lease.cpus)", "charge_host(lease.host, 0, -lease.cpus)"),
    Mutant("a waiter that was served stays in the queue", f"{INCLUDE}/serve.lua", "remove_waiter(ask.id, 'served')",
           "queued = queued"),
    Mutant("a release wakes nobody", f"{INCLUDE}/serve.lua", "call('RPUSH', WAKE_OF .. ask.id, int(token))", "",
           "tests/ledger/test_waiting.py tests/ledger/test_changes.py"),
    Mutant("the tenant that used most goes first", f"{INCLUDE}/serve.lua", "if ux ~= uy then return ux < uy end",
           "if ux ~= uy then return ux > uy end"),
    Mutant("the lowest priority goes first", f"{INCLUDE}/serve.lua", "if px ~= py then return px < py end",
           "if px ~= py then return px > py end"),
    Mutant("a waiter that died keeps its place", f"{INCLUDE}/reap.lua", "    remove_waiter(id, 'silent')\n", ""),
    Mutant("preemption strikes equals", f"{INCLUDE}/preempt.lua", "if own < priority then", "if own <= priority then"),
    Mutant("a deadline moves away when it is asked again", f"{INCLUDE}/change.lua",
           "if lease.revoke_at > 0 and lease.revoke_at <= at then return lease.revoke_at end", ""),
    Mutant("a revoked lease is renewed past its deadline", f"{INCLUDE}/holder.lua",
           "if lease.revoke_at > 0 then expires", "if false then expires"),
    Mutant("a sample that was held up counts as fresh", f"{LUA}/publish_sample.lua",
           "fresh_until = math.min(now, read_at) + 3 * interval_ms", "fresh_until = now + 3 * interval_ms"),
    Mutant("an old sample is taken", f"{LUA}/publish_sample.lua", "sequence <= tonumber(before[2])", "false"),
    Mutant("a stranger's memory is lent", f"{INCLUDE}/sample.lua", "math.max(0, capacity - report.unmanaged_bytes)",
           "capacity"),
    Mutant("a card of which too little is known lends", f"{INCLUDE}/sample.lua",
           "if lends(r.state) and not (r.memory_total_bytes and r.unmanaged_bytes) then", "if false then"),
    Mutant("numbers such as nan pass", f"{INCLUDE}/check.lua",
           "(value == '0' or string.match(value or '', '^[1-9]%d*$')) and",
           "value and"),
    Mutant("a lost lease registers in the ledger that ended it", f"{LUA}/register.lua",
           "if held >= began then", "if false then",
           "tests/ledger/test_lost_data.py"),
    Mutant("registering asks for no room", f"{LUA}/register.lua", "if card.leased + bytes > room then", "if false then",
           "tests/ledger/test_lost_data.py"),
    Mutant("a server that forgot its scripts does not get them again", "broker/wire.py",
           "            self._require_version()\n            return self._run_command(",
           "            raise\n            return self._run_command(",
           "tests/ledger/test_scripts.py"),
    Mutant("the client gives each asking a nonce of its own", "broker/calls.py",
           "return (*self.argv, int(wait), *self.options)",
           "return (*self.argv, int(wait), 'nonce', new_nonce())", "tests/ledger/test_changes.py"),
    Mutant("a holder does not tell a ledger that lost its lease", "broker/client.py", "if claim is None:", "if True:",
           "tests/ledger/test_lost_data.py"),
    Mutant("a run is learned as often as it is told", LEARN, "if one == run then return 'known' end", "", SIZES),
    Mutant("a peak counts only in its generation", LEARN,
           "b.young_peak_bytes, b.young_need_bytes, 0, 0", "0, 0, 0, 0", SIZES),
    Mutant("a peak is never forgotten", LEARN, "if b.runs % GENERATION == 0 then", "if false then", SIZES),
    Mutant("what takes all it is given grows for ever", LEARN, "peak <= asked and math.max(asked, default) or MOST",
           "MOST", SIZES),
    Mutant("a CUDA context is more than the margin", LEARN, "math.max(math.ceil(peak / 10), LEAST_MARGIN)",
           "math.ceil(peak / 10)", SIZES),
    Mutant("the floor stays for ever", LEARN, "b.floor_bytes = b.floor_bytes - math.ceil(above",
           "local _ = math.ceil(above", SIZES),
    Mutant("the floor wears off as fast as ever", LEARN, "math.min(b.oom, 16)", "math.min(b.oom, 1)", SIZES),
    Mutant("sizes are without bound", LEARN, "while #order > BUCKETS_MOST do", "while false do", SIZES),
    Mutant("functions are without bound", LEARN, "call('ZCARD', SIZES) > FUNCTIONS_MOST", "false", SIZES),
    Mutant("a forgotten function leaves its hash", LEARN, "  call('DEL', SIZE_OF .. oldest)", "", SIZES),
    Mutant("a guess exceeds the largest card", "broker/sizes.py", "    if 0 < largest < asked:", "    if largest < 0:",
           f"tests/unit/test_sizes.py {SIZES}"),
    Mutant("a job forgets with how much it ran out of memory", "worker_hooks/sizing.py",
           ", too_little_bytes=lease.memory_bytes", "", "tests/rq/test_sizes.py"),
    Mutant("a job tries again for ever", "worker_hooks/sizing.py", "or tried >= TRIES_MOST", "",
           "tests/rq/test_sizes.py"),
    Mutant("a job that failed is learned", "worker_hooks/parking.py", "return status is None or", "return True or",
           "tests/rq/test_sizes.py"),
)  # fmt: skip


def mutated(mutant: Mutant, text: str) -> str:
    """The file's text with the mutation.

    Raises:
        LookupError: the text to change is not there, or not once.
    """
    if text.count(mutant.text) != 1:
        raise LookupError(f"{mutant.name}: {mutant.path} holds {text.count(mutant.text)} times {mutant.text!r}")
    return text.replace(mutant.text, mutant.wrong)


def caught(mutant: Mutant, folder: Path) -> str | None:
    """The first test that noticed the mutation, made in a copy of the tree; ``None`` if none did.

    Raises:
        LookupError: the text to change is not there, or not once.
    """
    tree = folder / mutant.name.replace(" ", "-")
    tree.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, tree / name)
    path = tree / mutant.path
    text = path.read_text(encoding="utf-8")
    path.write_text(mutated(mutant, text), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "--tb=no", "-p", "no:cacheprovider",
         *mutant.tests.split()],
        cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)}, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    shutil.rmtree(tree, ignore_errors=True)
    if done.returncode == 0:
        return None
    told = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    return told[0].split(" - ")[0] if told else done.stdout[-300:]


@click.command()
@click.option("--only", default="", help="Only mutants whose name holds this.")
@click.option("--jobs", default=2, show_default=True, help="At the same time.")
def main(only: str, jobs: int) -> None:
    """Make every mutation and say which test noticed it."""
    chosen = [mutant for mutant in MUTANTS if only in mutant.name]
    survivors = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder, ThreadPoolExecutor(jobs) as pool:
        found = pool.map(lambda mutant: caught(mutant, Path(folder)), chosen)
        for mutant, by in zip(chosen, found, strict=True):
            click.echo(f"{'caught  ' if by else 'SURVIVED'} {mutant.name}: {by or mutant.path}")
            if not by:
                survivors.append(mutant.name)
    click.echo(f"{len(chosen) - len(survivors)}/{len(chosen)} caught")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
