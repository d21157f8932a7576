"""Does declaratively what a ``postinst`` would have done, where that can be read from it.

That is ``update-alternatives --install`` with literal arguments. Everything else waits for ``dpkg --configure -a`` in
the guest, which does it again without harm. Units are left to it too: a service started before its package is
configured only fails.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.image.tree import Tree

UNIT_FOLDERS = ("etc/systemd/system", "usr/lib/systemd/system")


@dataclass(frozen=True)
class Alternative:
    """One ``update-alternatives --install``: ``slaves`` are (link, name, path) that follow the master."""

    link: str
    name: str
    path: str
    priority: int
    slaves: tuple[tuple[str, str, str], ...] = ()


def alternatives(script: str) -> Iterator[Alternative]:
    """Yield the alternatives which a script installs; commands with shell variables are left to the guest."""
    text = script.replace("\\\n", " ")
    for match in re.finditer(r"^\s*update-alternatives\s+(?:--quiet\s+)?--install\s+(.*)$", text, re.MULTILINE):
        try:
            words = shlex.split(re.split(r"\|\||&&|;", match[1])[0], comments=True)
        except ValueError:
            continue
        if len(words) < 4 or any("$" in word for word in words) or not words[3].isdigit():
            continue
        slaves = [tuple(words[at + 1 : at + 4]) for at in range(4, len(words)) if words[at] == "--slave"]
        triples = tuple((s[0], s[1], s[2]) for s in slaves if len(s) == 3)
        yield Alternative(words[0], words[1], words[2], int(words[3]), triples)


def install_alternatives(tree: Tree, found: list[Alternative]) -> None:
    """Lay the links of the best alternative of each name, and the database of update-alternatives."""
    by_name: dict[str, list[Alternative]] = {}
    for alternative in found:
        if tree.get(alternative.path) is not None:
            by_name.setdefault(alternative.name, []).append(alternative)
    for name, choices in by_name.items():
        best = max(choices, key=lambda choice: choice.priority)
        links = [(best.link, name, best.path), *best.slaves]
        for link, link_name, path in links:
            if tree.get(path) is None:
                continue
            tree.add_symlink(f"etc/alternatives/{link_name}", path)
            tree.add_symlink(link, f"/etc/alternatives/{link_name}")
        tree.add_file(f"var/lib/dpkg/alternatives/{name}", _database(choices))


def _database(choices: list[Alternative]) -> str:
    """Return the administrative file of one name, the format of update-alternatives(1)'s source."""
    slaves = {slave[1]: slave[0] for choice in choices for slave in choice.slaves}
    lines = ["auto", choices[0].link]
    for name in sorted(slaves):
        lines += [name, slaves[name]]
    lines.append("")
    for choice in choices:
        paths = {slave[1]: slave[2] for slave in choice.slaves}
        lines += [choice.path, str(choice.priority), *(paths.get(name, "") for name in sorted(slaves))]
    return "\n".join([*lines, "", ""])


def enable_unit(tree: Tree, unit: str) -> bool:
    """Make the links that ``systemctl enable`` makes of a unit's [Install] section; False if there is no such unit."""
    folder = next((folder for folder in UNIT_FOLDERS if tree.get(f"{folder}/{unit}") is not None), None)
    if folder is None:
        return False
    install = install_section(tree.read_text(f"{folder}/{unit}"))
    for alias in install.get("Alias", []):
        tree.add_symlink(f"etc/systemd/system/{alias}", f"/{folder}/{unit}")
    for key, suffix in (("WantedBy", "wants"), ("RequiredBy", "requires")):
        for target in install.get(key, []):
            tree.add_symlink(f"etc/systemd/system/{target}.{suffix}/{unit}", f"/{folder}/{unit}")
    for other in install.get("Also", []):
        if other != unit:
            enable_unit(tree, other)
    return True


def install_section(text: str) -> dict[str, list[str]]:
    """Return the [Install] section of a unit file, each value split into words."""
    section = ""
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        line = line.strip()
        if line.startswith("["):
            section = line
        elif section == "[Install]" and "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            values.setdefault(key.strip(), []).extend(value.split())
    return values
