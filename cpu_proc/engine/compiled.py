"""Make the generated module importable, and keep what Numba compiles of it.

The cache folder is named by a hash of every source that goes into the code and of the versions that compile it:
Numba itself does not notice a change in an imported file.
"""

from __future__ import annotations

import gc
import hashlib
import importlib.util
import inspect
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from protocol.names import cache_root, private_folder

_SOURCES = Path(__file__).parent.parent
MODULE = "busvm_generated_engine"
# What Python calls; and what `run` calls by an address in its state vector, which a second process compiles meanwhile
_CALLED = ("run", "decode", "inspect_csr", "change_csr", "pending", "post", "serve_calls")
_ASIDE = {"FLOATING_FUNCTION": "floating", "TRANSLATE_FUNCTION": "translate_block"}
_GARBAGE = 100_000  # objects between two collections while compiling, which makes many and drops few


def fingerprint() -> str:
    """Return the hash that names the cache folder."""
    import numba
    import numpy

    digest = hashlib.sha256()
    for path in sorted([*(_SOURCES / "isa").glob("*.py"), *(_SOURCES / "engine").rglob("*.py")]):
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

    ``progress`` is called with a line for people before something that takes seconds. A second process compiles
    floating point and the translator meanwhile, which is a third of the whole.
    """
    folder = private_folder(cache_folder())
    module = _prepare(folder)
    if is_cached():
        return _compiled(module)
    progress("compiling the CPU for this host, once (about a quarter of a minute)")
    command = [sys.executable, "-m", "cpu_proc.engine.compiled", str(folder)]
    with subprocess.Popen(command, cwd=_SOURCES.parent, stdin=subprocess.DEVNULL) as other:
        try:
            _compile(module, _CALLED)
        except BaseException:
            other.kill()
            raise
    module = _compiled(module)  # what the other process may have failed to do is done here
    (folder / "complete").touch()
    return module


def _prepare(folder: Path) -> Any:
    """Import the generated module; nothing of it is compiled yet."""
    os.environ["NUMBA_CACHE_DIR"] = str(folder / "numba")
    import numba

    numba.config.CACHE_DIR = str(folder / "numba")  # type: ignore[attr-defined]  # read when Numba was imported
    return _import(folder)


def _compile(module: Any, names: Iterable[str]) -> None:
    """Compile functions of the module, or take them from the cache."""
    import numba

    usual = gc.get_threshold()
    gc.set_threshold(_GARBAGE)
    for name in names:
        function = getattr(module, name)
        parameters = inspect.signature(function.py_func).parameters
        function.compile(tuple(numba.types.int64[::1] if p == "S" else numba.types.int64 for p in parameters))
    gc.set_threshold(*usual)


def _compiled(module: Any) -> Any:
    """Return the module with everything compiled, and the addresses that go into each state vector."""
    from cpu_proc.engine.jit import address

    _compile(module, (*_CALLED, *_ASIDE.values()))
    module.addresses = {slot: address(getattr(module, name)) for slot, name in _ASIDE.items()}
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


if __name__ == "__main__":
    _compile(_prepare(Path(sys.argv[1])), _ASIDE.values())
