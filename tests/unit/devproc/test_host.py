"""Arguments, the prompt, and the records of the page."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from devproc.host import main
from devproc.state import Record, Word
from devproc.template.__main__ import PROGRAM as TEMPLATE
from devproc.virtio_blk.__main__ import PROGRAM as DISK
from tests.unit.devproc.memory import private


class Numbers(Record):
    """Words of several widths."""

    small = Word(1)
    large = Word(8, "aligned")
    half = Word(2)


def test_record_lays_words_out_naturally_and_stores_at_once() -> None:
    shared = private(64)
    record = Numbers(shared, 16)
    record.small, record.large, record.half = 0x1FF, 5, 6

    assert (Numbers.small.offset, Numbers.large.offset, Numbers.half.offset, Numbers.SIZE) == (0, 8, 16, 24)
    assert record.values() == {"small": 0xFF, "large": 5, "half": 6}
    assert shared.load(24, 8) == 5
    record.clear()
    assert record.values() == {"small": 0, "large": 0, "half": 0}
    shared.close()


def prompt(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let ``text`` be typed."""
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_poke_template(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    prompt(monkeypatch, "set scratch 0x12\nget scratch\nget nothing\nset scratch\nset scratch x\nnonsense\n\nquit\n")

    assert main(TEMPLATE, ["--poke"]) == 0

    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0x12"
    assert lines[1] == "no register 'nothing'"
    assert lines[2] == "set: an argument is missing"
    assert lines[3].startswith("set: invalid literal")
    assert lines[4] == "no command 'nonsense'; try help"


def test_poke_disk_submits_requests(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    image = tmp_path / "disk"
    image.write_bytes(bytes(8192))
    prompt(monkeypatch, "id\nwrite 2 hello\nread 2\nflush\nread 99\nhelp\nregisters\nreset\ncounters\n")

    assert main(DISK, ["--poke", "--image", str(image), "--serial", "S7"]) == 0

    out = capsys.readouterr().out
    assert out.startswith("S7\nok\nok\n0000  68 65 6c 6c 6f 00")
    assert "i/o error" in out
    assert "device_status" in out
    assert image.read_bytes()[1024:1029] == b"hello"


@pytest.mark.parametrize(
    ("arguments", "status", "text"),
    [([], 2, "nothing to do"), (["--bus", "x"], 2, "--id"), (["--bus", "x", "--id", "no-dash"], 2, "--id")],
)
def test_bad_arguments_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, text: str
) -> None:
    assert main(TEMPLATE, arguments) == status
    error = capsys.readouterr().err
    assert text in error
    assert len(error.splitlines()) == 1


def test_print_capabilities(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(TEMPLATE, ["--print-capabilities"]) == 0
    assert capsys.readouterr().out == '{"type": "template"}\n'
