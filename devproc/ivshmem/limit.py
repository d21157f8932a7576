"""How many descriptors a process has room for: each vector of each peer is one, at the server and at every peer."""

from __future__ import annotations

import resource


def raise_limit() -> int:
    """Have as many descriptors as the host allows, and return how many that is."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most
