"""Writes ``/etc/pam.d/common-*`` as pam-auth-update(8) would: the templates of libpam-runtime, filled in from the
profiles that packages put into ``/usr/share/pam-configs``.

A profile's rule may jump ``success=end``: behind the last rule of its block and the ``pam_deny`` that follows it.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.image.tree import Tree

TEMPLATES = "usr/share/pam"
PROFILES = "usr/share/pam-configs"
STATE = "var/lib/pam"
NO_PRIMARY = "[default=1]\t\t\tpam_permit.so"  # steps over the pam_deny when no module decides


@dataclass(frozen=True)
class Profile:
    """One file of pam-configs: its fields, rules with their lines."""

    name: str
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


def parse_profile(name: str, text: str) -> Profile:
    """Read one file of pam-configs."""
    fields: dict[str, str] = {}
    key = ""
    for line in text.splitlines():
        if line[:1].isspace():
            fields[key] = fields.get(key, "") + "\n" + line
        elif ":" in line and not line.startswith("#"):
            key, _, value = line.partition(":")
            fields[key] = value.strip()
    return Profile(name, fields)


def block(profiles: list[Profile], kind: str, block_type: str, *, interactive: bool) -> list[tuple[str, str]]:
    """Return (profile, rule) of one block, the most important profile first."""
    chosen = [
        profile
        for profile in sorted(profiles, key=lambda profile: -profile.priority)
        if profile.fields.get(f"{kind}-Type") == block_type
        and (interactive or profile.fields.get("Session-Interactive-Only") != "yes")
    ]
    rules: list[tuple[str, str]] = []
    for profile in chosen:
        rules += [(profile.name, rule) for rule in profile.rules(kind, initial=not rules)]
    return rules or ([("null", NO_PRIMARY)] if block_type == "Primary" else [])


def resolved(rules: list[tuple[str, str]]) -> list[str]:
    """Return the rules with ``end`` turned into the number of rules to step over."""
    return [rule.replace("=end", f"={len(rules) - at}") for at, (_, rule) in enumerate(rules)]


def saved(rules: list[tuple[str, str]]) -> str:
    """Return what pam-auth-update keeps of a stack, to tell its own rules from an administrator's later."""
    lines = []
    for at, (name, rule) in enumerate(rules):
        if at == 0 or rules[at - 1][0] != name:
            lines.append(f"Module: {name}")
        lines.append(rule)
    return "".join(line + "\n" for line in lines)


def make(tree: Tree) -> None:
    """Write the common stacks from the templates and profiles in ``tree``."""
    profiles = [parse_profile(name, tree.read_text(f"{PROFILES}/{name}")) for name in tree.files_in(PROFILES)]
    enabled = [profile for profile in profiles if profile.is_default]
    for name in tree.files_in(TEMPLATES):
        if not name.startswith("common-") or name.endswith(".md5sums"):
            continue
        stack = name.removeprefix("common-")
        kind = stack.partition("-")[0]
        variable = kind if kind == stack else f"{kind}_nonint"
        text = tree.read_text(f"{TEMPLATES}/{name}")
        state = ""
        for block_type in ("Primary", "Additional"):
            rules = block(enabled, kind.capitalize(), block_type, interactive=kind == stack)
            lines = "".join(f"{kind}\t{rule}\n" for rule in resolved(rules))
            text = text.replace(f"${variable}_{block_type.lower()}\n", lines)
            state += saved(rules)
        tree.add_file(f"etc/pam.d/{name}", text)
        tree.add_file(f"{STATE}/{stack}", state)
    tree.add_file(f"{STATE}/seen", "".join(f"{profile.name}\n" for profile in profiles))
