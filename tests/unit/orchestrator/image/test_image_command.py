"""The command's arguments and refusals, apt's failures in one line, progress, and the initramfs script."""

import argparse
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.image import __main__ as main_module
from orchestrator.image import apt, command, debian, initramfs
from orchestrator.image.progress import Progress
from protocol.errors import ConfigError, HostError


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


def test_include_may_be_repeated_and_separated_by_commas() -> None:
    args = parse("debian", "-o", "x", "--include", "a", "b,c", "--include", "d")
    assert command._names(args.include) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("name", ["-y", "../x", "a b", "?essential"])
def test_include_of_no_package_name_raises(name: str) -> None:
    with pytest.raises(ConfigError):
        command._names([name])


def test_existing_image_is_not_replaced_without_force(tmp_path: Path) -> None:
    (tmp_path / "root.ext4").write_bytes(b"precious")
    with pytest.raises(ConfigError) as caught:
        command.run(parse("debian", "-o", str(tmp_path)))
    assert caught.value.hint == "--force replaces it"


def test_main_prints_error_and_hint_and_returns_the_class_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main_module.main(["debian", "-o", str(tmp_path), "--size", "huge"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: --size 'huge'")
    assert lines[1].startswith("  hint: ")


def test_output_that_is_a_file_raises(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        debian._make_folder(tmp_path / "file")


def test_edited_configuration_stays(tmp_path: Path) -> None:
    (tmp_path / "vm.toml").write_text("mine")
    debian._write_configuration(tmp_path, "trixie", "6.12", Progress(quiet=True))
    assert (tmp_path / "vm.toml").read_text() == "mine"


def test_failed_build_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(work: Path, *rest: object) -> None:
        (work / "half").write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr(debian, "_build", fail)
    monkeypatch.setattr(debian.programs, "find", str)
    with pytest.raises(KeyboardInterrupt):
        debian.build_debian(tmp_path / "out", progress=Progress(quiet=True))
    assert list((tmp_path / "out").iterdir()) == []


# apt's failures


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ("E: Failed to fetch http://m.example/x  Could not resolve 'm.example'\n", "the mirror does not answer"),
        ("W: GPG error: NO_PUBKEY 6ED0\nE: The repository is not signed.\n", "NO_PUBKEY 6ED0"),
        ("E: Failed to fetch http://m.example/P  Hash Sum mismatch\n", "the mirror is being updated"),
        ("E: Write error - write (28: No space left on device)\n", "no space left"),
        ("", "apt gave no reason"),
    ],
)
def test_failure_is_one_line_with_the_reason(messages: str, expected: str) -> None:
    error = apt._failure("lists", messages)
    assert isinstance(error, HostError)
    assert expected in error.message
    assert "\n" not in error.message
    assert error.hint


SYNC = "E: Failed to fetch http://m.example/P  File has unexpected size (1 != 2). Mirror sync in progress?\n"


class Mirror:
    """An apt whose fetches end as a test says, and the seconds that were waited between them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[str] = []
        self.waited: list[float] = []
        self.stream = io.StringIO()
        monkeypatch.setattr(apt.time, "sleep", self.waited.append)
        monkeypatch.setattr(apt.programs, "watch", self.fetch)
        monkeypatch.setattr(apt.programs, "run", self.run)
        self.releases: dict[str, str] = {}
        self.apt = apt.Apt(folder, "http://m.example", "trixie", "key", Progress(self.stream))

    def fetch(self, command: list[str], *rest: object, **more: object) -> subprocess.CompletedProcess[str]:
        answer = self.answers.pop(0)
        return subprocess.CompletedProcess(command, 100 if answer else 0, answer, answer)

    def run(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        found = re.fullmatch(r"http://m.example/dists/(\w+)/InRelease", command[-2])
        if found and found[1] in self.releases:
            Path(command[-1]).write_text(self.releases[found[1]])
        return subprocess.CompletedProcess(command, 0, "", "")

    def update(self, *answers: str, force: bool = False) -> None:
        self.answers, self.waited[:] = list(answers), []
        with self.apt.locked():
            self.apt.update(force=force)


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    return Mirror(tmp_path, monkeypatch)


def test_mirror_that_is_being_updated_is_asked_again(mirror: Mirror) -> None:
    mirror.update(SYNC, SYNC, "")
    assert mirror.waited == [5, 15]
    assert mirror.answers == []


def test_mirror_that_stays_so_has_the_old_lists_used_if_there_are_any(mirror: Mirror) -> None:
    with pytest.raises(HostError, match="is being updated"):
        mirror.update(*[SYNC] * 4)
    mirror.update("")
    mirror.update(*[SYNC] * 4, force=True)
    assert mirror.waited == [5, 15, 40]
    assert "is being updated: going on with the lists of the last build" in mirror.stream.getvalue()


@pytest.mark.parametrize(("codename", "taken"), [("trixie", True), ("forky", False)])
def test_where_files_do_not_go_together_the_releases_other_name_is_asked(
    mirror: Mirror, tmp_path: Path, codename: str, taken: bool
) -> None:
    mirror.releases = {"trixie": "Suite: stable\nCodename: trixie\n", "stable": f"Codename: {codename}\n"}
    mirror.update(SYNC, "")
    assert mirror.waited == ([] if taken else [5])
    assert f"http://m.example {'stable' if taken else 'trixie'} main" in (tmp_path / "etc" / "sources.list").read_text()
    mirror.update()  # they are young


def test_packages_that_the_mirror_no_longer_has_say_how_to_go_on(mirror: Mirror) -> None:
    mirror.answers = ["E: Failed to fetch http://m.example/a.deb  404  Not Found\n"]
    with pytest.raises(apt.Outdated) as caught, mirror.apt.locked():
        mirror.apt.install_set(["a"], [])
    assert "--refresh" in caught.value.hint


def test_carried_are_proxies_and_checks_only() -> None:
    kept = [
        'Acquire::http::Proxy "http://p.example:3128";',
        'Acquire::Check-Date "false";',
    ]
    left = ['Acquire::Languages "none";', 'Dir::State "/var/lib/apt";', 'APT::Architecture "amd64";']
    assert [line for line in kept + left if apt.CARRIED.match(line)] == kept


def test_cache_folder_follows_xdg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert apt.cache_folder() == Path("/somewhere/busvm/debian")


# Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_in_a_log_has_steps_only() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    progress.step("one")
    progress.at(1, 2, "x")
    assert stream.getvalue() == "one\n"


def test_progress_on_a_terminal_is_drawn_and_taken_away() -> None:
    stream = Terminal()
    progress = Progress(stream)
    progress.step("one")
    progress.at(1, 2, "x")
    progress.clear()
    assert "50% x" in stream.getvalue()
    assert stream.getvalue().endswith("\r\033[K")


def test_progress_quiet_says_nothing() -> None:
    stream = Terminal()
    progress = Progress(stream, quiet=True)
    progress.step("one")
    progress.at(1, 2)
    assert stream.getvalue() == ""


# The initramfs


def test_initramfs_same_inputs_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    parts = (b"busybox", [("virtio_blk.ko", "", b"elf")])
    first = initramfs.build(*parts)
    assert first == initramfs.build(*parts)

    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000001")
    assert first != initramfs.build(*parts)


@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell on this host")
def test_initramfs_script_is_valid_shell() -> None:
    script = initramfs.INIT.replace("@WAIT@", "5")
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)


def test_initramfs_script_begins_with_the_banner() -> None:
    first = next(line for line in initramfs.INIT.splitlines() if line.startswith("echo"))
    assert first == 'echo "@BANNER@"'
