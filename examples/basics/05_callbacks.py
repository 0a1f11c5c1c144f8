"""Callbacks: be told what happens in the pool, as it happens."""

import threading

from broker import get_broker
from broker.models import Event
from broker.units import format_size

broker = get_broker()
returned = threading.Event()


def borrowed(event: Event) -> None:
    print(f"borrowed: {format_size(int(event.fields['memory_bytes']))} on {event.fields['host']}")


def given_back(event: Event) -> None:
    print(f"given back after {event.fields['held_ms']} ms: {event.fields['id']}")
    returned.set()


def changed(event: Event) -> None:
    print(f"card {event.fields['gpu']} went from {event.fields['from']} to {event.fields['to']}")


ends = [broker.on("granted", borrowed), broker.on("released", given_back), broker.on("state", changed)]
with broker.lease("1GiB", wait=30, owner="05_callbacks.py"):
    pass
print("heard all of it" if returned.wait(30) else "heard nothing within 30 s")
for end in ends:
    end()  # no more calls of this one
broker.close()
