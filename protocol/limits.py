"""How many descriptors a process has room for: every doorbell of every peer is one, for the server and all who ring."""

from __future__ import annotations

import resource


def raise_limit() -> int:
    """Have as many descriptors as the host allows, and return how many that is."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
