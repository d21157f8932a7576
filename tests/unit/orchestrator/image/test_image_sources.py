"""Finding the mirror in apt's source files."""

from pathlib import Path

import pytest

from orchestrator.image import sources
from protocol.errors import HostError

ONE_LINE = """\
# deb http://commented.example/debian trixie main
deb-src http://src.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/x.gpg] http://tools.example/apt stable-tools contrib
deb http://mirror.example/debian bookworm main contrib # the nearest
"""
DEB822 = """\
Types: deb
# a comment does not end the stanza
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc: def

Types: deb-src
URIs: http://src.example/debian
Suites: bookworm
Components: main

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: trixie
Components: main
"""


def test_parse_list_options_and_comments_are_left_out() -> None:
    assert list(sources.parse_list(ONE_LINE)) == [
        sources.Source("http://tools.example/apt", "stable-tools", ("contrib",)),
        sources.Source("http://mirror.example/debian", "bookworm", ("main", "contrib")),
    ]


def test_parse_deb822_sources_and_disabled_stanzas_are_left_out() -> None:
    assert list(sources.parse_deb822(DEB822)) == [
        sources.Source("http://mirror.example/debian", "bookworm", ("main",)),
        sources.Source("http://mirror.example/debian", "bookworm-updates", ("main",)),
    ]


def test_read_takes_both_formats_and_ignores_others(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list").write_text("not read")
    (tmp_path / "sources.list.d" / "a.list").write_text(ONE_LINE)
    (tmp_path / "sources.list.d" / "b.sources").write_text(DEB822)
    (tmp_path / "sources.list.d" / "c.sources.bak").write_text(DEB822)

    assert len(sources.read(tmp_path)) == 4


def test_read_without_any_file_returns_nothing(tmp_path: Path) -> None:
    assert sources.read(tmp_path / "missing") == []


def test_debian_mirror_is_the_first_main_archive() -> None:
    found = [*sources.parse_list(ONE_LINE), sources.Source("http://second.example/debian", "trixie", ("main",))]
    assert sources.debian_mirror(found) == "http://mirror.example/debian"


def test_debian_mirror_of_a_derivative_raises_with_a_hint() -> None:
    noble = sources.Source("http://archive.example/ubuntu", "noble", ("main", "universe"))
    with pytest.raises(HostError) as caught:
        sources.debian_mirror([noble])
    assert caught.value.hint is not None
    assert "--mirror" in caught.value.hint


def test_keyring_missing_raises_with_the_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sources, "KEYRINGS", (str(tmp_path / "none.gpg"),))
    with pytest.raises(HostError) as caught:
        sources.keyring()
    assert caught.value.hint is not None
    assert "debian-archive-keyring" in caught.value.hint
