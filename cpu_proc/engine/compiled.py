"""Make the generated module importable, and keep what Numba compiles of it.

The cache folder is named by a hash of every source that goes into the code and of the versions that compile it:
Numba itself does not notice a change in an imported file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from protocol.names import cache_root, private_folder

_SOURCES = Path(__file__).parent.parent
MODULE = "busvm_generated_engine"


def fingerprint() -> str:
    """Return the hash that names the cache folder."""
    import numba
    import numpy

    digest = hashlib.sha256()
    for path in sorted([*(_SOURCES / "isa").glob("*.py"), *(_SOURCES / "engine").glob("*.py")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    for version in (sys.version, numba.__version__, numpy.__version__):
        digest.update(version.encode())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Return the folder with the generated source and its machine code."""
    return cache_root() / "engine" / fingerprint()


def is_cached() -> bool:
    """Tell whether a start finds compiled code."""
    return (cache_folder() / "complete").exists()


def load(progress: Callable[[str], None] = lambda _text: None) -> Any:
    """Return the generated module with ``run`` compiled, from the cache where possible.

    ``progress`` is called with a line for people before something that takes seconds.
    """
    folder = private_folder(cache_folder())
    os.environ["NUMBA_CACHE_DIR"] = str(folder / "numba")
    import numba
    import numpy as np

    numba.config.CACHE_DIR = str(folder / "numba")  # type: ignore[attr-defined]  # read when Numba was imported
    fresh = not is_cached()
    if fresh:
        progress("compiling the CPU for this host, once (about half a minute)")
    module = _import(folder)
    from cpu_proc.engine import state as st

    # one call with a budget of nothing compiles everything that `run` reaches
    vector = np.zeros(st.SIZE, np.int64)
    look = np.zeros(8, np.uint8)
    vector[st.SLOTS["LOOK_HOST"]] = vector[st.SLOTS["CLOCK_RUNNING_HOST"]] = look.ctypes.data
    vector[st.SLOTS["CLOCK_STOPPED_HOST"]] = look.ctypes.data
    module.run(vector, 0, 0)
    module.decode(0)
    module.pending.compile((numba.types.int64[::1],))
    module.post.compile((numba.types.int64,) * 5)
    if fresh:
        (folder / "complete").touch()
    return module


def _import(folder: Path) -> ModuleType:
    path = folder / f"{MODULE}.py"
    if not path.exists():
        from cpu_proc.engine.generate import source

        # two first starts at once write the same text: the rename makes either of them whole
        with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", delete=False) as file:
            file.write(source())
        Path(file.name).rename(path)
    spec = importlib.util.spec_from_file_location(MODULE, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    spec.loader.exec_module(module)
    return module
