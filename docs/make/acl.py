"""The roles of a pool's server, from ``broker.acl``."""

from __future__ import annotations

from importlib.util import find_spec

from docs.make.markdown import code, table


def is_there() -> bool:
    """Whether there are roles."""
    return find_spec("broker.acl") is not None


def page() -> str:
    """Each role, and what it is for."""
    from broker.acl import ROLES  # type: ignore[import-not-found,unused-ignore]

    return table(("role", "who"), [(code(name), role.about) for name, role in ROLES.items()])
