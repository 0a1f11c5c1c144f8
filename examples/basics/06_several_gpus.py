"""Several cards: two of one host, all or none, or one with more memory where there is no such pair."""

from broker import ImpossibleRequest, InsufficientMemory, get_broker
from broker.units import format_size

broker = get_broker()
wanted = ["2x1GiB", "2GiB"]  # the first of them that there is room for
print(broker.explain(wanted))
try:
    with broker.lease(wanted, wait=30, owner="06_several_gpus.py") as lease:
        print(f"got choice {lease.choice}, {wanted[lease.choice - 1]}, on {lease.host}:")
        for uuid, total in zip(lease.gpu_uuids, lease.memory_total_bytes, strict=True):
            print(f"  {format_size(lease.memory_bytes)} of {format_size(total)} on {uuid}")
        print(f"  CUDA_VISIBLE_DEVICES={lease.env()['CUDA_VISIBLE_DEVICES']}")
except (InsufficientMemory, ImpossibleRequest) as error:
    print(f"not now: {error}")
