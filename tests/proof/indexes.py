"""Sums and indexes of what a transaction touched, recomputed from the leases and waiters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from tests.proof.account import Account, Finding
from tests.proof.mirror import Step

#: States in which a card lends.
LENDS = {"OPTIMAL", "NORMAL", "THROTTLED"}
#: `wide` keeps one range of scores for each number of cards.
SPAN = 1 << 43


def check_cards(account: Account, step: Step, cards: set[str]) -> Iterator[Finding]:
    """The sums and indexes of each card, from its leases."""
    for uuid in cards:
        gpu, leases = account.mirror.hashes.get(f"gpu:{uuid}"), account.on_card[uuid]
        if gpu is None or "uuid" not in gpu:
            if leases:
                yield "sums", f"{sorted(leases)} are on {uuid}, which the pool does not know"
            for index in ("free", "reserved", "fresh", "capacity"):
                if uuid in account.mirror.zset(index):
                    yield "indexes", f"{uuid} stands in `{index}` and is not known"
            if uuid in account.mirror.sets.get("gpus", ()):
                yield "indexes", f"{uuid} stands in `gpus` and has no hash"
            continue
        yield from _card_sums(account, uuid, gpu, leases)
        yield from _card_offers(account, uuid, gpu, (step.before.get(f"gpu:{uuid}") or {}).get("class", ""))
        yield from _card_reservation(account, uuid, gpu)


def _card_sums(account: Account, uuid: str, gpu: dict[str, str], leases: dict[str, int]) -> Iterator[Finding]:
    named = {name[6:]: int(text) for name, text in gpu.items() if name.startswith("lease:")}
    if named != leases:
        yield "sums", f"{uuid} names the leases {named}, those that name it are {leases}"
    leased, budget = int(gpu["leased_bytes"]), int(gpu["budget_bytes"])
    if leased != sum(leases.values()):
        yield "sums", f"{uuid}: leased_bytes {leased}, its leases hold {sum(leases.values())}"
    if int(gpu["free_bytes"]) != max(0, budget - leased):
        yield "sums", f"{uuid}: free_bytes {gpu['free_bytes']}, it should be {max(0, budget - leased)}"
    if int(gpu.get("short_bytes", max(0, leased - budget))) != max(0, leased - budget):
        yield "sums", f"{uuid}: short_bytes {gpu['short_bytes']}, it should be {max(0, leased - budget)}"
    if uuid not in account.mirror.sets.get("gpus", ()):
        yield "indexes", f"{uuid} has a hash and does not stand in `gpus`"


def _card_offers(account: Account, uuid: str, gpu: dict[str, str], class_before: str) -> Iterator[Finding]:
    free = int(gpu["free_bytes"])
    lends = gpu["state"] in LENDS and gpu.get("drained") != "1" and not gpu.get("reserved_for")
    expected = float(free) if lends and free > 0 else None
    own_class = gpu.get("class", "")
    indexes = {"free": expected}
    if class_before:
        indexes[f"free@{class_before}"] = None
    if own_class:
        indexes[f"free@{own_class}"] = expected
    for index, score in indexes.items():
        if account.mirror.zset(index).get(uuid) != score:
            found = account.mirror.zset(index).get(uuid)
            yield "indexes", f"{uuid} is offered in `{index}` with {found} bytes, it should be {score}"


def _card_reservation(account: Account, uuid: str, gpu: dict[str, str]) -> Iterator[Finding]:
    waiter, score = gpu.get("reserved_for", ""), account.mirror.zset("reserved").get(uuid)
    if (score is not None) != bool(waiter):
        yield "indexes", f"{uuid} is reserved for {waiter or 'nobody'}, `reserved` says {score}"
    elif waiter and score != float(gpu["free_bytes"]):
        yield "indexes", f"{uuid} stands in `reserved` with {score} bytes, {gpu['free_bytes']} are free"
    if waiter and uuid not in account.mirror.hash(f"waiter:{waiter}").get("reserved_gpus", "").split(","):
        yield "law 7", f"{uuid} is reserved for {waiter}, who knows nothing of it or waits no more"


def check_waiters(account: Account, step: Step, cards: set[str]) -> Iterator[Finding]:
    """A waiter has a hash, a place and a deadline, and a line where there are lines; or none of them."""
    queue, deadlines = account.mirror.zset("waiters"), account.mirror.zset("waiting")
    touched = {*step.suffixes("waiter:"), *step.members.get("waiters", ()), *step.members.get("waiting", ())}
    for waiter in touched:
        there = f"waiter:{waiter}" in account.mirror.hashes
        if not there == (waiter in queue) == (waiter in deadlines):
            found = f"hash {there}, in the queue {waiter in queue}, deadline {waiter in deadlines}"
            yield "indexes", f"waiter {waiter}: {found}"
        lines = account.lines_of.get(waiter, set())
        if account.lined and len(lines) != int(there):
            yield "indexes", f"waiter {waiter} {'waits' if there else 'is gone'}, its lines: {sorted(lines)}"
        for line in lines if there else ():
            if account.mirror.zset(f"line:{line}")[waiter] != queue.get(waiter):
                yield "indexes", f"waiter {waiter} has place {queue.get(waiter)}, its line {line} says another"
        if not there:
            account.lines_of.pop(waiter, None)
        reserved = account.reserved_by.get(waiter, set())
        named = set(filter(None, account.mirror.hash(f"waiter:{waiter}").get("reserved_gpus", "").split(",")))
        if reserved != named:
            yield "law 7", f"waiter {waiter} has {sorted(named)} reserved, kept for it are {sorted(reserved)}"


def check_lines(account: Account, step: Step, cards: set[str]) -> Iterator[Finding]:
    """A line stands in its group by its first waiter's place, and only while somebody stands in it."""
    for line in [key[5:] for key in step.members if key.startswith("line:")]:
        group = line.rsplit("|", 2)[0]
        places = account.mirror.zset(f"line:{line}").values()
        expected, found = min(places, default=None), account.mirror.zset(f"lines:{group}").get(line)
        if expected != found:
            yield "indexes", f"line {line} begins at {expected}, its group says {found}"
        listed = group in account.mirror.sets.get("groups", ())
        if group.startswith("sel:") and listed != bool(account.mirror.zset(f"lines:{group}")):
            yield "indexes", f"group {group} is {'' if listed else 'not '}listed, against its lines"


def check_holders(account: Account, step: Step, cards: set[str]) -> Iterator[Finding]:
    """What tenants and hosts are said to hold is the sum of their leases."""
    ids = [f"lease:{lease_id}" for lease_id in step.suffixes("lease:")]
    held = [fields for key in ids for fields in (step.before[key], account.mirror.hashes.get(key)) if fields]
    tenants = {*step.suffixes("tenant:"), *(fields.get("tenant", "") for fields in held)}
    for name in tenants if "tenants" in account.mirror.sets else ():
        said = int(account.mirror.hash(f"tenant:{name}").get("leased_bytes", 0))
        if said != account.of_tenant[name]:
            yield "sums", f"tenant {name}: leased_bytes {said}, its leases hold {account.of_tenant[name]}"
    for name in {*step.suffixes("host:"), *(fields.get("host", "") for fields in held)}:
        host = account.mirror.hashes.get(f"host:{name}")
        for words, sums in (
            ("leased_memory_bytes", account.memory_of_host),
            ("leased_cpus_milli", account.cpus_of_host),
        ):
            if host is not None and int(host.get(words) or 0) != sums[name]:
                yield "sums", f"host {name}: {words} {host.get(words)}, its leases hold {sums[name]}"


def check_wide(account: Account, step: Step, cards: set[str]) -> Iterator[Finding]:
    """For each host of a card that was touched: its k-th largest offers, and how many cards a class has."""
    hosts, classes = set(), set()
    for uuid in cards:
        for gpu in (step.before.get(f"gpu:{uuid}") or {}, account.mirror.hash(f"gpu:{uuid}")):
            if "peers" in gpu:
                hosts.add(gpu["host"])
            if gpu.get("class"):
                classes.add(gpu["class"])
    wide, free = account.mirror.zset("wide"), account.mirror.zset("free")
    for host in hosts:
        own = account.mirror.hash(f"host:{host}").get("gpus", "").split()
        offers = sorted((free[uuid] for uuid in own if uuid in free), reverse=True)
        stale = host in account.mirror.sets.get("stale", set())
        for k in range(2, 17):
            expected = k * SPAN + offers[k - 1] if len(offers) >= k else None
            # It may say too much, and too little where the host is known to be stale.
            if expected is not None and not stale and wide.get(f"{host}#{k}", 0) < expected:
                yield "indexes", f"`wide` says {wide.get(f'{host}#{k}')} of {host}#{k}, it should be {expected}"
    if classes:
        numbers = Counter(account.class_of.values())
        for name in classes:
            if int(account.mirror.hash("classes").get(name, 0)) != numbers[name]:
                yield "indexes", f"class {name!r} has {numbers[name]} cards, `classes` says otherwise"
