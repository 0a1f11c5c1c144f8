"""Throttling: smaller batches while the card is hot, none while it is too hot."""

import time

from broker import get_broker

broker = get_broker()
photos = [f"photo-{number}.jpg" for number in range(1, 25)]
full_batch = 8

with broker.lease("1GiB", wait=30, owner="04_throttling.py") as lease:
    card = lease.gpu_uuids[0]
    while photos:
        now = broker.throttle(card)  # what a holder reads: heat and health, not how full the card is
        if now.speed == 0.0:
            print(f"paused: {now.reason}")
            time.sleep(1)
            continue
        size = max(1, int(full_batch * now.speed))
        batch, photos = photos[:size], photos[size:]
        print(f"{now.state}, speed {now.speed:g}: {len(batch)} photos at once, {len(photos)} left")
# In an RQ job `for batch in paced(photos, 8):` from worker_hooks is this loop.
print("all done")
