"""gpubroker's contract: the ledger of GPU memory, and all that reads or serves it.

The public face stands here and nothing else; hardware is read in ``agent``, jobs are run in ``worker_hooks``.
"""

from broker.aio import AsyncBroker
from broker.client import Broker, get_broker
from broker.errors import (
    BrokerError,
    ImpossibleRequest,
    InsufficientMemory,
    InvalidRequest,
    LeaseConflict,
    LeaseLost,
    LeaseNotFound,
    PoolUnavailable,
    StaleToken,
)
from broker.lease import AsyncLease, Lease
from broker.values import State, Throttle

__all__ = [
    "AsyncBroker",
    "AsyncLease",
    "Broker",
    "BrokerError",
    "ImpossibleRequest",
    "InsufficientMemory",
    "InvalidRequest",
    "Lease",
    "LeaseConflict",
    "LeaseLost",
    "LeaseNotFound",
    "PoolUnavailable",
    "StaleToken",
    "State",
    "Throttle",
    "get_broker",
]
