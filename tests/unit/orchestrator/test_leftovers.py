"""Only what is the VM's own, and nobody's any more, is taken away."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from orchestrator import leftovers
from protocol.memory import SHM, shm_name
from protocol.names import Runtime
from tests.conftest import VM


@pytest.fixture
def names() -> Iterator[list[str]]:
    """Make names as a killed VM leaves them, and some of a VM whose name begins alike."""
    made = [shm_name(VM, what) for what in ("ram", "irq", "clock", "dev.disk0", "b.ram", "b.dev.disk0")]
    for name in made:
        (SHM / name).touch()
    yield made
    for name in made:
        (SHM / name).unlink(missing_ok=True)


def test_names_of_a_vm_whose_name_begins_alike_are_not_its_own(names: list[str]) -> None:
    assert leftovers.shared_names(Runtime(VM)) == sorted(names[:4])
    assert leftovers.shared_names(Runtime(f"{VM}.b")) == sorted(names[4:])


def test_what_a_process_has_open_stays(names: list[str]) -> None:
    with (SHM / names[0]).open("rb"):
        leftovers.remove_files(Runtime(VM))

        assert (SHM / names[0]).exists()
    assert not (SHM / names[1]).exists()
    leftovers.remove_files(Runtime(VM))
    assert not (SHM / names[0]).exists()
    assert (SHM / names[4]).exists()


def test_clean_empties_the_folder_but_for_the_lock(names: list[str]) -> None:
    runtime = Runtime(VM)
    runtime.prepare()
    for path in (runtime.lock, runtime.bus_socket, runtime.plan):
        path.touch()

    did = leftovers.clean(runtime, None)

    assert {f"/dev/shm/{name}" for name in names[:4]} <= set(did)
    assert list(runtime.folder.iterdir()) == [runtime.lock]
    leftovers.remove_files(runtime)
    assert not runtime.folder.exists()
