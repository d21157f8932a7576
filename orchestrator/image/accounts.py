"""The user and group databases, as base-passwd, passwd and systemd-sysusers would have made them in the guest.

Formats: passwd(5), shadow(5), group(5), sysusers.d(5), of which the plain ``u``, ``g`` and ``m`` lines are served.
Numbers of system accounts count down from 999, as Debian's adduser and systemd-sysusers do.
"""

from __future__ import annotations

import shlex

from orchestrator.image.tree import Tree

NOLOGIN = "/usr/sbin/nologin"
SYSTEM_ID_MAX = 999
SHADOW_GID = 42  # of base-passwd; the same on every Debian


class Accounts:
    """Users and groups while they are being collected."""

    def __init__(self, passwd: str, group: str) -> None:
        self.users = [line.split(":") for line in passwd.splitlines() if line]
        self.groups = [line.split(":") for line in group.splitlines() if line]

    def apply_sysusers(self, text: str) -> None:
        """Add what one sysusers.d file declares; accounts that exist stay as they are."""
        for line in text.splitlines():
            words = shlex.split(line, comments=True)
            if len(words) < 2:
                continue
            kind, name = words[0].rstrip("!"), words[1]
            numbers = words[2] if len(words) > 2 else "-"
            if kind == "g":
                self.add_group(name, _number(numbers))
            elif kind == "u":
                rest = [("" if word == "-" else word) for word in words[3:6]] + [""] * 3
                self.add_user(name, numbers, comment=rest[0], home=rest[1], shell=rest[2])
            elif kind == "m":
                self.add_member(words[1], numbers)

    def group_id(self, name: str) -> int | None:
        """Return the number of a group."""
        return next((int(group[2]) for group in self.groups if group[0] == name), None)

    def add_group(self, name: str, number: int | None = None) -> int:
        """Return the number of the group ``name``, made if it is missing."""
        present = self.group_id(name)
        if present is not None:
            return present
        taken = {int(group[2]) for group in self.groups}
        if number is None or number in taken:
            number = self._free(taken | {int(user[2]) for user in self.users})
        self.groups.append([name, "*", str(number), ""])
        return number

    def add_user(self, name: str, numbers: str, *, comment: str = "", home: str = "", shell: str = "") -> None:
        """Make a system user unless there is one of that name; ``numbers`` is sysusers.d's ID field."""
        if any(user[0] == name for user in self.users):
            return
        first, _, second = numbers.partition(":")
        wanted = _number(first)
        if second:
            named = self.group_id(second) if not second.isdigit() else int(second)
            gid = named if named is not None else self.add_group(second)
        else:
            gid = self.add_group(name, wanted)
        taken = {int(user[2]) for user in self.users}
        if wanted is None:
            free = gid if not second and gid not in taken else self._free(taken)
            wanted = free
        self.users.append([name, "*", str(wanted), str(gid), comment, home or "/", shell or NOLOGIN])

    def add_member(self, user: str, group: str) -> None:
        """Put a user into a group."""
        self.add_group(group)
        for row in self.groups:
            members = [member for member in row[3].split(",") if member]
            if row[0] == group and user not in members:
                row[3] = ",".join([*members, user])

    def write(self, tree: Tree, root_password_hash: str) -> None:
        """Write passwd, group and their shadows; every account but root is locked."""
        passwd = "".join(":".join([user[0], "x", *user[2:]]) + "\n" for user in self.users)
        group = "".join(":".join([row[0], "x", *row[2:]]) + "\n" for row in self.groups)
        shadow = "".join(
            f"{user[0]}:{root_password_hash if user[0] == 'root' else '*'}:20000:0:99999:7:::\n" for user in self.users
        )
        gshadow = "".join(f"{row[0]}:*::{row[3]}\n" for row in self.groups)
        for name, content, mode, gid in (
            ("passwd", passwd, 0o644, 0),
            ("group", group, 0o644, 0),
            ("shadow", shadow, 0o640, SHADOW_GID),
            ("gshadow", gshadow, 0o640, SHADOW_GID),
            ("subuid", "", 0o644, 0),
            ("subgid", "", 0o644, 0),
        ):
            tree.add_file(f"etc/{name}", content, mode, gid=gid)

    @staticmethod
    def _free(taken: set[int]) -> int:
        return next(number for number in range(SYSTEM_ID_MAX, 100, -1) if number not in taken)


def _number(text: str) -> int | None:
    return int(text) if text.isdigit() else None


def make(tree: Tree, root_password_hash: str) -> None:
    """Write the account files of ``tree`` from base-passwd's master files and the sysusers.d of its packages."""
    masters = "usr/share/base-passwd"
    accounts = Accounts(tree.read_text(f"{masters}/passwd.master"), tree.read_text(f"{masters}/group.master"))
    for name in tree.files_in("usr/lib/sysusers.d"):
        if name.endswith(".conf"):
            accounts.apply_sysusers(tree.read_text(f"usr/lib/sysusers.d/{name}"))
    accounts.write(tree, root_password_hash)
