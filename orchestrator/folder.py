"""Files that are put into a VM's runtime folder, which may take nothing more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from protocol.errors import HostError
from protocol.names import Runtime


def put(path: Path, text: str) -> None:
    """Have ``path`` be a file of this text, whole for whoever looks.

    Raises:
        OSError: that does not go; it is as it was.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        fresh.write_text(text)
        fresh.rename(path)
    except OSError:
        fresh.unlink(missing_ok=True)
        raise


@contextmanager
def writing(runtime: Runtime) -> Iterator[None]:
    """Say for people what keeps files from being put there.

    Raises:
        HostError: something does.
    """
    try:
        yield
    except OSError as error:
        raise HostError(f"cannot write to {runtime.folder}: {error.strerror}") from error
