"""Heat: how hot each card is, where it goes, and at what it slows down."""

from broker import get_broker

broker = get_broker()
for gpu in broker.gpus():
    limits = broker.config(gpu.uuid)  # the pool's, with what differs for this card
    print(f"{gpu.host} card {gpu.index}: {'unknown' if gpu.temperature_c is None else f'{gpu.temperature_c} °C'}")
    print(f"  OPTIMAL below {limits.temp_optimal} °C, THROTTLED from {limits.temp_normal}", end="")
    print(f", CRITICAL above {limits.temp_throttle}")
    trend = broker.trend(gpu.uuid, minutes=5)
    print(f"  {trend.words()}")
