"""Make the generated module importable, and keep what Numba compiles of it.

The cache folder is named by a hash of every source that goes into the code and of the versions that compile it:
Numba itself does not notice a change in an imported file.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from protocol.names import cache_root, private_folder

_SOURCES = Path(__file__).parent.parent
MODULE = "busvm_generated_engine"
# What the second process compiles, by prefix; and what calls that, and so comes last
_ASIDE = ("floating_", "translate", "word_ahead", "words_ahead", "decode", "match", "pack", "rare")
_LAST = ("run", "fetch_decoded", "inspect_csr", "change_csr")


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
        _compile_entries(module)
        return module
    progress("compiling the CPU for this host, once (about half a minute)")
    command = [sys.executable, "-m", "cpu_proc.engine.compiled", str(folder)]
    with subprocess.Popen(command, cwd=_SOURCES.parent, stdin=subprocess.DEVNULL) as other:
        try:
            _compile_all(module, lambda name: name not in _LAST and not name.startswith(_ASIDE))
        except BaseException:
            other.kill()
            raise
    _compile_entries(module)  # what the other process may have failed to do is done here
    (folder / "complete").touch()
    return module


def _prepare(folder: Path) -> Any:
    """Import the generated module; nothing of it is compiled yet."""
    os.environ["NUMBA_CACHE_DIR"] = str(folder / "numba")
    import numba

    numba.config.CACHE_DIR = str(folder / "numba")  # type: ignore[attr-defined]  # read when Numba was imported
    return _import(folder)


def _compile_all(module: Any, wanted: Callable[[str], bool]) -> None:
    """Compile functions of the generated module by name, with all that they call."""
    import numba

    for name, function in list(vars(module).items()):
        python = getattr(function, "py_func", None)
        if python is not None and python.__module__ == MODULE and wanted(name):
            parameters = inspect.signature(python).parameters
            function.compile(tuple(numba.types.int64[::1] if p == "S" else numba.types.int64 for p in parameters))


def _compile_entries(module: Any) -> None:
    """Compile, or take from the cache, what Python calls."""
    _compile_all(module, lambda name: name in ("run", "decode", "inspect_csr", "change_csr"))
    import numba

    module.pending.compile((numba.types.int64[::1],))
    module.post.compile((numba.types.int64,) * 5)


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
    _compile_all(_prepare(Path(sys.argv[1])), lambda name: name.startswith(_ASIDE))
