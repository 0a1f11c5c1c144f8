"""Borrowing memory: a lease that renews itself, and what is refused."""

from broker import ImpossibleRequest, InsufficientMemory, get_broker
from broker.units import format_size

broker = get_broker()


def room(uuid: str) -> str:
    return format_size(broker.available().get(uuid, 0))


try:
    with broker.lease("1GiB", wait=30, owner="02_memory.py") as lease:
        card = lease.gpu_uuids[0]
        print(f"borrowed {format_size(lease.memory_bytes)} on {lease.host}, card {card}")
        print(f"  a framework started now sees only CUDA_VISIBLE_DEVICES={lease.env()['CUDA_VISIBLE_DEVICES']}")
        print(f"  {room(card)} are left there for others")
        lease.resize("512MiB")
        print(f"  shrunk to {format_size(lease.memory_bytes)}: {room(card)} are left")
    print(f"given back: {room(card)} are free")
except InsufficientMemory as error:
    print(f"no room now: {error}")

try:
    broker.acquire("1000GiB")
except ImpossibleRequest as error:
    print(f"refused at once: {error}")
