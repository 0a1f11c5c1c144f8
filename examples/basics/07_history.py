"""History: the last samples of each card, and the journal's last entries."""

import time

from broker import get_broker

broker = get_broker()


def clock(at_ms: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(at_ms / 1000))


for gpu in broker.gpus():
    samples = broker.history(gpu.uuid)
    heats = [sample.temperature_c for sample in samples if sample.temperature_c is not None]
    if not heats:
        print(f"{gpu.host} card {gpu.index}: {len(samples)} samples, none with a temperature")
        continue
    since = clock(samples[0].at)
    print(f"{gpu.host} card {gpu.index}: {len(samples)} samples since {since}, {min(heats)} to {max(heats)} °C")
    for sample in samples[-3:]:
        print(f"  {clock(sample.at)}  {sample.temperature_c} °C  {sample.state}")
print("the journal's last entries:")
for event in broker.recent_events(5):
    print(f"  {clock(event.at)}  {event.kind}  {' '.join(f'{k}={v}' for k, v in event.fields.items() if v)[:80]}")
