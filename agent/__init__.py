"""One host's eyes: reads its GPUs, judges their state, publishes what it saw.

No leases are granted here (``broker``), and no jobs are run (``worker_hooks``).
"""
