"""Writes ``/etc/pam.d/common-*`` as pam-auth-update(8) would: the templates of libpam-runtime, filled in from the
profiles that packages put into ``/usr/share/pam-configs``.

A profile's rule may jump ``success=end``: behind the last rule of its block and the ``pam_deny`` that follows it.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.image.tree import Tree

TEMPLATES = "usr/share/pam"
PROFILES = "usr/share/pam-configs"
NO_PRIMARY = "[default=1]\t\t\tpam_permit.so"  # steps over the pam_deny when no module decides


@dataclass(frozen=True)
class Profile:
    """One file of pam-configs: its fields, rules with their lines."""

    fields: dict[str, str]

    @property
    def priority(self) -> int:
        """Higher goes first."""
        return int(self.fields.get("Priority", "0"))

    @property
    def is_default(self) -> bool:
        """Whether it is on unless the administrator says otherwise."""
        return self.fields.get("Default", "no") == "yes"

    def rules(self, kind: str, *, initial: bool) -> list[str]:
        """Return the rules for ``Auth``, ``Account``, …; the first profile of a stack has its own."""
        text = self.fields.get(f"{kind}-Initial") if initial else None
        return [line.strip() for line in (text or self.fields.get(kind, "")).splitlines() if line.strip()]


def parse_profile(text: str) -> Profile:
    """Read one file of pam-configs."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line[:1].isspace():
            fields[name] = fields.get(name, "") + "\n" + line
        elif ":" in line and not line.startswith("#"):
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    return Profile(fields)


def block(profiles: list[Profile], kind: str, block_type: str, *, interactive: bool) -> list[str]:
    """Return the rules of one block, most important profile first, with ``end`` turned into a number of rules."""
    chosen = [
        profile
        for profile in sorted(profiles, key=lambda profile: -profile.priority)
        if profile.fields.get(f"{kind}-Type", "Additional") == block_type
        and (interactive or profile.fields.get("Session-Interactive-Only") != "yes")
    ]
    rules: list[str] = []
    for profile in chosen:
        rules += profile.rules(kind, initial=not rules)
    if block_type == "Primary":
        if not rules:
            return [NO_PRIMARY]
        return [rule.replace("=end", f"={len(rules) - at}") for at, rule in enumerate(rules)]
    return rules


def make(tree: Tree) -> None:
    """Write the common stacks from the templates and profiles in ``tree``."""
    profiles = [parse_profile(tree.read_text(f"{PROFILES}/{name}")) for name in tree.files_in(PROFILES)]
    profiles = [profile for profile in profiles if profile.is_default]
    for name in tree.files_in(TEMPLATES):
        if not name.startswith("common-") or name.endswith(".md5sums"):
            continue
        interactive = not name.endswith("noninteractive")
        kind = name.split("-")[1]
        variable = kind if interactive else f"{kind}_nonint"
        text = tree.read_text(f"{TEMPLATES}/{name}")
        for block_type in ("Primary", "Additional"):
            rules = block(profiles, kind.capitalize(), block_type, interactive=interactive)
            lines = "\n".join(f"{kind}\t{rule}" for rule in rules)
            text = text.replace(f"${variable}_{block_type.lower()}", lines)
        tree.add_file(f"etc/pam.d/{name}", text)
