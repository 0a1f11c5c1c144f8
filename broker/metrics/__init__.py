"""A pool for Prometheus: what it is like now, and what its journal tells, in base units.

The library ``prometheus_client`` (extra ``web``) is imported here and nowhere else. No HTTP, no files: who serves or
prints the text does that.
"""

from broker.metrics.exporter import AsyncExporter, Exporter, content_type

__all__ = ["AsyncExporter", "Exporter", "content_type"]
