"""The error tree: one sentence each. Every message says what was asked, what there is and what to do."""

from __future__ import annotations


class BrokerError(Exception):
    """Anything the broker refuses or cannot do."""


class InvalidRequest(BrokerError, ValueError):
    """A value is not allowed; nothing was changed. The message names the field, the value and what is allowed."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        """Name the ``field``, the ``value`` it was given and what is ``allowed`` there."""
        shown = repr(value)
        if len(shown) > 80:
            shown = shown[:77] + "..."
        super().__init__(f"{field}={shown} is not allowed: {allowed}")
        self.field = field
        self.value = value
        self.allowed = allowed

    def __reduce__(self) -> tuple[type[InvalidRequest], tuple[str, object, str]]:
        """Survive pickling, as RQ does to a job's exception."""
        return type(self), (self.field, self.value, self.allowed)


class InsufficientMemory(BrokerError):
    """There was no room before ``wait`` ran out."""


class ImpossibleRequest(BrokerError):
    """No GPU that the pool knows could ever hold the request, even when empty.

    ``largest_bytes`` is the budget of the largest one that it may have; 0 where something else is in the way.
    """

    largest_bytes = 0


class LeaseConflict(BrokerError):
    """The name is taken by a lease or waiter that asked for something else."""


class LeaseNotFound(BrokerError):
    """The ledger holds no lease of that name."""


class StaleToken(BrokerError):
    """The lease exists, but under a newer token: it has another holder now."""


class LeaseLost(BrokerError):
    """The lease was held and is no more: its time passed, it was revoked, or the ledger lost it."""


class NotInPool(BrokerError):
    """The pool knows no GPU or host of that name."""


class PoolUnavailable(BrokerError):
    """Redis cannot be reached, is too old, or refuses to answer; the message says which URL was tried."""


class PoolAway(PoolUnavailable):
    """Redis cannot be reached, or nobody is in charge, at this moment: it may be back soon, another one perhaps."""
