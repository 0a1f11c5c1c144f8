"""What there is: every card, how it is, and what it lends."""

from broker import get_broker
from broker.units import format_size

broker = get_broker()  # the pool that GPUBROKER_REDIS_URL and GPUBROKER_POOL name
gpus = broker.gpus()
for gpu in gpus:
    heat = "unknown" if gpu.temperature_c is None else f"{gpu.temperature_c} °C"
    print(f"{gpu.host} card {gpu.index}: {gpu.name}, {heat}, {gpu.state}, speed {gpu.speed:g}")
    print(f"  {format_size(gpu.free_bytes)} of {format_size(gpu.budget_bytes)} free to borrow")
    if gpu.reason:
        print(f"  {gpu.reason}")
lending = sum(gpu.lends for gpu in gpus)
print(f"{lending} of {len(gpus)} cards lend; {len(broker.leases())} leases, {len(broker.waiters())} waiting")
