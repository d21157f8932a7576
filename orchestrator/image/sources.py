"""Finds the Debian mirror this host is configured for, in apt's own source files.

Both formats of sources.list(5): one-line ``.list`` and deb822 ``.sources``. On a derivative such as Ubuntu none of the
sources is Debian's; then the user names a mirror.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import HostError

DEFAULT_SUITE = "trixie"
KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
)
DEBIAN_SUITES = frozenset({
    "oldoldstable", "oldstable", "stable", "testing", "unstable", "sid", "experimental",
    "buster", "bullseye", "bookworm", "trixie", "forky", "duke",
})  # fmt: skip
SCHEMES = ("http:", "https:", "file:", "copy:", "mirror:", "mirror+")


@dataclass(frozen=True)
class Source:
    """One place packages come from."""

    uri: str
    suite: str
    components: tuple[str, ...]


def parse_list(text: str) -> Iterator[Source]:
    """Read the one-line format: ``deb [options] uri suite component…``."""
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[[^\]]*\]\s*)?(\S+)\s+(\S+)\s*([^#]*)", line.strip())
        if match:
            yield Source(match[1], match[2], tuple(match[3].split()))


def parse_deb822(text: str) -> Iterator[Source]:
    """Read the ``.sources`` format: stanzas of ``Field: value``."""
    for stanza in re.split(r"\n\s*\n", _without_comments(text)):
        fields: dict[str, str] = {}
        name = ""
        for line in stanza.splitlines():
            if line[:1].isspace():
                fields[name] = f"{fields.get(name, '')} {line.strip()}"
            elif ":" in line:
                name, _, value = line.partition(":")
                name = name.strip().lower()
                fields[name] = value.strip()
        if "deb" not in fields.get("types", "").split() or fields.get("enabled", "yes").lower() == "no":
            continue
        for uri in fields.get("uris", "").split():
            for suite in fields.get("suites", "").split():
                yield Source(uri, suite, tuple(fields.get("components", "").split()))


def _without_comments(text: str) -> str:
    """Return ``text`` without comment lines, which do not end a stanza."""
    return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


def read(folder: Path = Path("/etc/apt")) -> list[Source]:
    """Return the sources of this host, in apt's order; files that cannot be read count as empty."""
    files = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*"))]
    found: list[Source] = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if path.suffix == ".list":
            found.extend(parse_list(text))
        elif path.suffix == ".sources":
            found.extend(parse_deb822(text))
    return found


def debian_mirror(sources: Iterable[Source]) -> str:
    """Return the address of the main Debian archive among ``sources``.

    Raises HostError if there is none.
    """
    for source in sources:
        if source.suite in DEBIAN_SUITES and "main" in source.components and source.uri.startswith(SCHEMES):
            return source.uri
    raise HostError(
        "apt on this host has no source of Debian's main archive", hint="name a Debian mirror with --mirror URI"
    )


def keyring() -> str:
    """Return the file with the keys of the Debian archive.

    Raises HostError if it is missing.
    """
    for path in KEYRINGS:
        if Path(path).is_file():
            return path
    raise HostError(
        f"the keys of the Debian archive ({KEYRINGS[0]}) are missing",
        hint="on Debian and Ubuntu: apt install debian-archive-keyring",
    )
