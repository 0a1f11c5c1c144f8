"""gpubroker's contract: the ledger of GPU memory, and all that reads or serves it.

The public face stands here and nothing else; hardware is read in ``agent``, jobs are run in ``worker_hooks``. A name is
imported when it is first asked for, so that who needs a small part of the house does not pay for Redis's client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from broker.aio import AsyncBroker
    from broker.calls import this_host
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
    "this_host",
]

_HOMES = {
    "aio": ("AsyncBroker",),
    "calls": ("this_host",),
    "client": ("Broker", "get_broker"),
    "lease": ("AsyncLease", "Lease"),
    "values": ("State", "Throttle"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """A name of the public face (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"broker.{_HOME_OF.get(name, 'errors')}"), name)
    return value


def __dir__() -> list[str]:
    """What can be imported from here."""
    return sorted(__all__)
