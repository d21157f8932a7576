"""The command line: usage, one-line errors, exit statuses; nothing is started here."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.__main__ import _VERBS, main, parser
from protocol.names import Runtime


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in _VERBS:
        with pytest.raises(SystemExit, match="0"):
            main([verb, "--help"])
        assert verb in capsys.readouterr().out


def test_the_whole_parser_lists_every_verb() -> None:
    text = parser(list(dict.fromkeys(_VERBS.values()))).format_help()

    assert all(f"  {verb}" in text for verb in _VERBS)


@pytest.mark.parametrize("words", [[], ["upp"], ["up", "--nonsense"], ["ps", "a", "b"], ["image"]])
def test_wrong_usage_is_one_line_and_status_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)

    assert caught.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        ["ps", "none"],
        ["console"],
        ["env", "none"],
        ["pause"],
        ["inspect"],
        ["logs", "none"],
        ["gdb", "none"],
        ["restart", "disk0"],
    ],
)
def test_a_vm_that_does_not_run_is_status_3(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 3

    said = capsys.readouterr()
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1


def test_down_of_nothing_succeeds_and_ps_is_empty(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down"]) == 0
    assert main(["down", "none"]) == 0
    assert main(["down", "--all"]) == 0
    assert main(["ps", "-q"]) == 0
    assert capsys.readouterr().out == ""
    assert main(["ps", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_bad_configuration_is_status_2(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "vm.toml").write_text("[vm]\nmemroy = 1\n")

    for words in (["up"], ["up", "vm.toml"], ["up", "."], ["validate"], ["config"], ["ps", "vm.toml"]):
        assert main(words) == 2
        assert capsys.readouterr().err == "error: vm.toml:2: vm.memroy: unknown key (did you mean 'memory'?)\n"


def test_dry_run_prints_the_plan_and_starts_nothing(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--dry-run", "--name", "x", "--set", "vm.memory=64M"]) == 0

    shown = json.loads(capsys.readouterr().out)
    assert (shown["vm"], shown["memory"]) == ("x", 64 << 20)
    assert not Runtime("x").folder.exists()


def test_debug_of_an_unknown_device_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["up", "--debug", "disk0"]) == 2
    assert "--debug disk0: no such device" in capsys.readouterr().err


def test_config_and_validate(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--set", "vm.name=y"]) == 0
    assert 'name = "y"' in capsys.readouterr().out
    assert main(["config", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["vm"]["cpus"] == 1
    assert main(["config", "--schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "vm.toml"
    (folder / "vm.toml").write_text("")
    assert main(["validate"]) == 0
    assert "0 devices, with the embedded guest" in capsys.readouterr().out


def test_validate_places_the_guest_on_paper(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "foo.bin").write_bytes(b"x" * 16)
    (folder / "vm.toml").write_text(
        '[[load]]\nfile = "foo.bin"\naddress = 0x80200000\ncpu = 0\n[[load]]\nfile = "foo.bin"\naddress = 0x8020000f\n'
    )

    assert main(["validate"]) == 2
    assert capsys.readouterr().err == (
        "error: vm.toml:5: load 2 (foo.bin) 0x8020000f-0x8020001f overlaps load 1 (foo.bin) 0x80200000-0x80200010 "
        "(move one of them)\n"
    )
    (folder / "vm.toml").write_text('[boot]\ndtb = "foo.bin"\n')
    assert main(["validate"]) == 2
    assert capsys.readouterr().err.startswith(f"error: vm.toml:2: boot.dtb: device tree {folder}/foo.bin: 16 bytes are")


def test_logs_outlive_the_vm_and_are_merged_by_time(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Runtime("v").logs
    folder.mkdir(parents=True)
    (folder / "cpu.log").write_text("progress: x\ntime=2026-01-01T00:00:02Z msg=b\n")
    (folder / "disk0.log").write_text("time=2026-01-01T00:00:01Z msg=a\ntraceback\n")
    (folder / "console.log").write_text("login:\n")

    assert main(["logs", "v"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "cpu          | progress: x",
        "disk0        | time=2026-01-01T00:00:01Z msg=a",
        "disk0        | traceback",
        "cpu          | time=2026-01-01T00:00:02Z msg=b",
    ]
    assert main(["logs", "v", "disk0", "-n", "1", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == {"process": "disk0", "time": "2026-01-01T00:00:01Z", "line": "traceback"}
    assert main(["logs", "v", "console", "-f"]) == 0
    assert capsys.readouterr().out == "console      | login:\n"
    assert main(["logs", "v", "disk1"]) == 3


def test_the_command_line_loads_no_numba_and_no_bus_library() -> None:
    code = (
        "import sys; from orchestrator.__main__ import main; main(['up', '--dry-run']); "
        "print([m for m in ('numba', 'numpy', 'asyncio', 'dbus_fast', 'psutil') if m in sys.modules], file=sys.stderr)"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stderr == "[]\n"


def test_the_documentation_has_every_verb() -> None:
    text = (Path(__file__).parents[3] / "docs" / "command-line.md").read_text()

    assert [verb for verb in _VERBS if f"`{verb}" not in text] == []
