"""Configuration: read it, change it, put it back, and be refused."""

from broker import InvalidRequest, get_broker

broker = get_broker()
before = broker.config()
print(f"a sample every {before.monitor_interval:g} s")
print(f"OPTIMAL below {before.temp_optimal} °C and {before.memory_optimal} % of memory")
print(f"heat to come is told {before.warning_seconds:g} s ahead")
try:
    changed = broker.update_config(warning_seconds=90)  # agents pick it up within one interval
    print(f"  now {changed.warning_seconds:g} s ahead")
finally:
    after = broker.update_config(warning_seconds=before.warning_seconds)  # None would restore the default
print(f"  and {after.warning_seconds:g} s again")
for gpu in broker.gpus():
    own = broker.config(gpu.uuid)  # the pool's, with what was set for this card alone: update_config(gpu.uuid, ...)
    unlike = {name: value for name, value in own if value != getattr(after, name)}
    print(f"{gpu.host} card {gpu.index}: {unlike or 'as the pool'}")
try:
    broker.update_config(temp_optimal=80, temp_normal=70)
except InvalidRequest as error:
    print(f"refused, nothing changed: {error}")
