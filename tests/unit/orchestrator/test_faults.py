"""Last words of a process become one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import config, faults
from protocol.errors import ConfigError, HostError


@pytest.fixture
def loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> config.Config:
    monkeypatch.chdir(tmp_path)
    Path("disk.img").touch()
    Path("Image").touch()
    Path("vm.toml").write_text(
        '[boot]\nkernel = "Image"\n[[device]]\nid = "disk0"\ntype = "virtio-blk"\nimage = "disk.img"\n'
    )
    return config.load(Path("vm.toml"))


def test_a_device_error_names_the_key_whose_value_it_mentions(loaded: config.Config, tmp_path: Path) -> None:
    lines = ["noise", f"python -m devproc.virtio_blk: error: image {tmp_path}/disk.img is locked by pid 7 (a hint)"]

    error = faults.explain(loaded, "disk0", "ended with status 4", 4, lines)

    assert error.message == f"vm.toml:6: disk0.image: image {tmp_path}/disk.img is locked by pid 7 (a hint)"
    assert isinstance(error, HostError)


def test_a_kernel_error_names_boot_kernel_and_keeps_status_and_hint(loaded: config.Config, tmp_path: Path) -> None:
    lines = [f"error: {tmp_path}/Image is no RISC-V image", "hint: take another"]

    error = faults.explain(loaded, "cpu", "ended with status 2", 2, lines)

    assert (error.message, error.hint) == (
        f"vm.toml:2: boot.kernel: {tmp_path}/Image is no RISC-V image",
        "take another",
    )
    assert isinstance(error, ConfigError)


def test_a_load_is_named_by_its_line(tmp_path: Path) -> None:
    file = tmp_path / "vm.toml"
    file.write_text("[[load]]\naddress = 0\n\n[[load]]\naddress = 1\n")

    for said in ("load 2 (foo.bin) 0x1-0x2 overlaps kernel x", "--load 2: address=x is no number"):
        error = faults.explain(config.load(file), "cpu", "ended with status 2", 2, [f"error: {said}"])

        assert error.message == f"{file}:4: {said}"


def test_a_traceback_gives_its_last_line_and_where_to_read_on(loaded: config.Config) -> None:
    lines = ["Traceback (most recent call last):", "  File x", "ModuleNotFoundError: No module named 'mine'", ""]

    error = faults.explain(loaded, "disk0", "ended with status 1", 1, lines)

    assert error.message == (
        "vm.toml:4: disk0: ended with status 1 before the VM ran: ModuleNotFoundError: No module named 'mine'"
    )
    assert "logs" in (error.hint or "")


def test_a_log_line_gives_its_message() -> None:
    assert faults.last_words(['time=x level=error vm=v name=n msg="it broke"']) == "it broke"


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["error: no room", "hint: make some", "noise"], "no room (make some)"),
        (["python -m it: error: no room (make some)", "noise"], "no room (make some)"),
        (["ValueError: no", "time=x level=info vm=v msg=attached"], "ValueError: no"),
        (["time=x level=info vm=v msg=attached"], ""),
    ],
)
def test_why_a_process_ended_is_its_last_error_or_else_the_last_that_is_no_chatter(lines: list[str], why: str) -> None:
    assert faults.reason(lines) == why


@pytest.mark.parametrize(
    ("lines", "status"),
    [([], None), (["msg=\"state=off reason='exit status 3'\""], 3), (["state=running reason=''"], None)],
)
def test_the_exit_status_of_an_adopted_machine_is_in_its_log(lines: list[str], status: int | None) -> None:
    assert faults.logged_exit(lines) == status
