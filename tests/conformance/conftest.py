"""A private bus, device processes on it, and a check that nothing is left behind; the kit's option ``--device``.

Modules named ``test_kit_*`` are the conformance kit: they run against any device. With ``--device`` only they do.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from xprocess import ProcessStarter

from protocol.errors import ProtocolError
from protocol.memory import SHM, shm_name
from tests.conformance.fake_cpu import DeviceGone, FakeCpu
from tests.conformance.sides import BusSide, Side, VhostSide, side
from tests.conformance.subject import SECTORS, Process, Subject, chosen

KIT = "test_kit_"
PASSED = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--device``."""
    parser.addoption(
        "--device",
        metavar="COMMAND",
        help="run the conformance kit against this device: a command with {socket} (a vhost-user daemon), or with "
        "{bus} and {id} (a device of a busvm machine), and with {image} if it is a disk",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each check of the kit against every device that it is for."""
    if "subject" not in metafunc.fixturenames:
        return
    wants = {
        "virtio": "is_virtio",
        "disk": "is_disk",
        "vhost": "is_vhost_user",
        "registers": "is_on_bus",
        "machine": "is_on_bus",
    }
    found = [
        subject
        for subject in chosen(metafunc.config.getoption("--device", default=None))
        if all(getattr(subject, word) for name, word in wants.items() if name in metafunc.fixturenames)
    ]
    metafunc.parametrize("subject", found, ids=[subject.name for subject in found])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With ``--device``, leave what is not the kit, and what is for another kind of device."""
    if config.getoption("--device", default=None) is None:
        return
    here = [i for i in items if i.path.name.startswith(KIT) and "NOTSET" not in i.name]
    config.hook.pytest_deselected(items=[item for item in items if item not in here])
    items[:] = here


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Have a check of the kit fail with one line when the device hangs up or says nothing."""
    try:
        result = yield
    except (ProtocolError, DeviceGone) as error:
        if not pyfuncitem.path.name.startswith(KIT):
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        frames = [f for f in traceback.extract_tb(error.__traceback__) if "/conformance/" in f.filename]
        line = (frames or [where])[-1].line
        pytest.fail(f"the conversation ended | sent: {line} | came: {type(error).__name__}: {error}", pytrace=False)
    pyfuncitem.stash[PASSED] = True
    return result


_BUS_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path={socket}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="false"/>
    <allow receive_sender="*"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


@pytest.fixture(scope="session")
def runtime() -> Iterator[Path]:
    """Return a private folder with a short path, for sockets."""
    with tempfile.TemporaryDirectory(prefix="bv") as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def bus_address(xprocess: Any, runtime: Path) -> Iterator[str]:
    """Return the address of a private dbus-daemon."""
    socket = runtime / "bus"
    config = runtime / "bus.conf"
    config.write_text(_BUS_CONFIG.format(socket=socket))
    name = f"bus{os.getpid()}"

    class Starter(ProcessStarter):  # type: ignore[misc]
        args = ("dbus-daemon", f"--config-file={config}", "--nofork", "--print-address")
        pattern = "unix:path="
        timeout = 20

    xprocess.ensure(name, Starter)
    yield f"unix:path={socket}"
    xprocess.getinfo(name).terminate()


class DeviceProcess:
    """A device process under test: ``python -m MODULE --bus … --id …``."""

    def __init__(self, module: str, address: str, device_id: str, arguments: list[str], log: Path) -> None:
        self.log_path = log
        with log.open("ab") as output:
            self._popen = subprocess.Popen(
                [sys.executable, "-m", module, "--bus", address, "--id", device_id, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.pid = self._popen.pid

    @property
    def log(self) -> str:
        """What it wrote to standard error."""
        return self.log_path.read_text()

    @property
    def running(self) -> bool:
        """Whether it is alive."""
        return self._popen.poll() is None

    def terminate(self, timeout_s: float = 10.0) -> int:
        """Send SIGTERM and return the exit status."""
        self._popen.terminate()
        return self._popen.wait(timeout_s)

    def wait(self, timeout_s: float = 10.0) -> int:
        """Return the exit status."""
        return self._popen.wait(timeout_s)

    def kill(self) -> None:
        """Send SIGKILL and wait until it is gone."""
        self._popen.kill()
        self._popen.wait(10)


Start = Callable[..., DeviceProcess]


@pytest.fixture(params=["pci", "mmio"])
def transport(request: pytest.FixtureRequest) -> str:
    """Return what the device is connected to: each in its turn."""
    return str(request.param)


@pytest.fixture
def start(bus_address: str, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a device process; what still runs at the end is killed."""
    started: list[DeviceProcess] = []

    def run(
        *arguments: str, module: str = "devproc.virtio_blk", device_id: str = "disk0", bus: str | None = None
    ) -> DeviceProcess:
        log = tmp_path / f"{device_id}.log"
        process = DeviceProcess(module, bus or bus_address, device_id, list(arguments), log)
        started.append(process)
        return process

    yield run
    for process in started:
        if process.running:
            process.kill()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Return a disk image of 4 MiB in which every sector says its number."""
    path = tmp_path / "disk.raw"
    path.write_bytes(b"".join(sector.to_bytes(4, "little") * 128 for sector in range(8192)))
    return path


@pytest.fixture
def cpu(bus_address: str, runtime: Path) -> Iterator[FakeCpu]:
    """Return a machine without a CPU."""
    with FakeCpu(bus_address, runtime) as machine:
        yield machine


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """Fail the run if it leaves shared memory or processes of a VM behind."""
    yield
    left = [path.name for path in SHM.glob(shm_name(f"fake{os.getpid()}x*", "*"))]
    left += [f"{p.pid} {p.name()}" for p in psutil.Process().children() if "devproc" in " ".join(p.cmdline())]
    assert not left


# the kit


class Bench:
    """A device under test with its driver's side, kept from one check to the next as long as all goes well."""

    def __init__(self, subject: Subject, bus: str | None, runtime: Path, folder: Path) -> None:
        self.image = folder / "disk.raw"
        self.fresh_image()
        self.process = Process(subject, folder, places(subject, bus, runtime, self.image))
        self._stack = ExitStack()
        try:
            self.side = self._stack.enter_context(side(self.process, runtime))
        except BaseException:
            self.process.close()
            raise
        self.sound = True

    def fresh_image(self) -> None:
        """Have every sector say its number."""
        content = b"".join(sector.to_bytes(4, "little") * 128 for sector in range(SECTORS))
        if not self.image.exists() or self.image.read_bytes() != content:
            with self.image.open("r+b" if self.image.exists() else "wb") as file:
                file.write(content)

    def close(self) -> None:
        """End it."""
        self._stack.close()


def places(subject: Subject, bus: str | None, runtime: Path, image: Path) -> dict[str, str]:
    """Return what the words in braces of a command stand for."""
    name = "".join(letter for letter in subject.name if letter.isalnum())
    return {"image": str(image), "socket": str(runtime / name), "bus": bus or "", "id": f"dut_{name}"}


def bus_of(request: pytest.FixtureRequest, subject: Subject) -> str | None:
    """Return the address of the bus, for a device that wants one."""
    return str(request.getfixturevalue("bus_address")) if subject.is_on_bus else None


@pytest.fixture(scope="session")
def benches() -> Iterator[dict[str, Bench]]:
    """Return what is running, by the name of the device."""
    running: dict[str, Bench] = {}
    yield running
    for bench in running.values():
        bench.close()


@pytest.fixture
def virtio(
    request: pytest.FixtureRequest,
    subject: Subject,
    runtime: Path,
    benches: dict[str, Bench],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Side]:
    """Return the driver's side of a virtio device."""
    bench = benches.get(subject.name)
    if bench is None or not bench.sound or not bench.process.alive():
        if bench is not None:
            benches.pop(subject.name).close()
        folder = tmp_path_factory.mktemp("device")
        bench = benches[subject.name] = Bench(subject, bus_of(request, subject), runtime, folder)
    bench.sound = False
    yield bench.side
    if request.node.stash.get(PASSED, False):
        bench.process.check_alive("what this check has sent")
        with suppress(ProtocolError, DeviceGone):
            bench.side.reset()
            bench.fresh_image()
            bench.sound = True


@pytest.fixture
def disk(virtio: Side) -> Side:
    """Return the driver's side of a block device."""
    return virtio


@pytest.fixture
def scratch(subject: Subject, disk: Side, benches: dict[str, Bench]) -> Path:
    """Return the image of that block device."""
    return benches[subject.name].image


@pytest.fixture
def vhost(virtio: Side) -> VhostSide:
    """Return a vhost-user front-end."""
    assert isinstance(virtio, VhostSide)
    return virtio


@pytest.fixture
def registers(virtio: Side) -> BusSide:
    """Return a machine whose device has registers of its own."""
    assert isinstance(virtio, BusSide)
    return virtio


@pytest.fixture
def process(
    request: pytest.FixtureRequest, subject: Subject, image: Path, runtime: Path, benches: dict[str, Bench]
) -> Iterator[Process]:
    """Return a process of the device under test, alone."""
    if subject.name in benches:
        benches.pop(subject.name).close()
    process = Process(subject, image.parent, places(subject, bus_of(request, subject), runtime, image))
    yield process
    process.close()
