"""Accounts, PAM stacks, alternatives and units: what stands in for the packages' own scripts."""

from pathlib import Path

import pytest

from orchestrator.image import accounts, guest, pam, scripts
from orchestrator.image.tree import Tree

PASSWD = "root:*:0:0:root:/root:/bin/bash\nnobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
GROUP = "root:*:0:\nadm:*:4:\nshadow:*:42:\nnogroup:*:65534:\n"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "root")


# Accounts


def test_sysusers_makes_users_with_their_groups() -> None:
    made = accounts.Accounts(PASSWD, GROUP)
    made.apply_sysusers(
        '# a comment\nu! systemd-network - "Network Management"\ng render -\nu sync 4:65534 - /bin /bin/sync\n'
    )

    assert ["systemd-network", "*", "999", "999", "Network Management", "/", accounts.NOLOGIN] in made.users
    assert made.group_id("render") == 998
    assert ["sync", "*", "4", "65534", "", "/bin", "/bin/sync"] in made.users


def test_sysusers_keeps_what_exists() -> None:
    made = accounts.Accounts(PASSWD, GROUP)
    made.apply_sysusers("u root 0 - /elsewhere /bin/sh\ng adm 77\n")

    assert made.users[0][5:] == ["/root", "/bin/bash"]
    assert made.group_id("adm") == 4


def test_sysusers_member_is_added_once() -> None:
    made = accounts.Accounts(PASSWD, GROUP)
    made.apply_sysusers("m nobody adm\nm nobody adm\n")
    assert ["adm", "*", "4", "nobody"] in made.groups


def test_written_accounts_are_locked_but_root(tree: Tree) -> None:
    accounts.Accounts(PASSWD, GROUP).write(tree, "$6$hash")

    assert tree.read_text("etc/shadow").splitlines() == [
        "root:$6$hash:20000:0:99999:7:::",
        "nobody:*:20000:0:99999:7:::",
    ]
    assert tree.read_text("etc/passwd").startswith("root:x:0:0:root:/root:/bin/bash\n")
    assert (tree.entries["etc/shadow"].mode & 0o777, tree.entries["etc/shadow"].gid) == (0o640, 42)


# PAM

UNIX = """\
Name: Unix authentication
Default: yes
Priority: 256
Auth-Type: Primary
Auth:
	[success=end default=ignore]	pam_unix.so nullok try_first_pass
Auth-Initial:
	[success=end default=ignore]	pam_unix.so nullok
Session-Type: Additional
Session:
	required	pam_unix.so
"""
SSS = "Default: yes\nPriority: 128\nAuth-Type: Primary\nAuth:\n\t[success=end default=ignore]\tpam_sss.so\n"
HOME = "Default: no\nSession-Type: Additional\nSession:\n\toptional\tpam_mkhomedir.so\n"


@pytest.fixture
def pam_tree(tree: Tree) -> Tree:
    tree.add_file("usr/share/pam-configs/unix", UNIX)
    tree.add_file("usr/share/pam-configs/mkhomedir", HOME)
    tree.add_file(
        "usr/share/pam/common-auth", "# one\n$auth_primary\nauth\trequisite\tpam_deny.so\n$auth_additional\n# end\n"
    )
    tree.add_file("usr/share/pam/common-session", "$session_primary\n$session_additional\n")
    tree.add_file("usr/share/pam/common-auth.md5sums", "")
    return tree


def test_pam_jump_steps_over_the_deny(pam_tree: Tree) -> None:
    pam.make(pam_tree)
    assert pam_tree.read_text("etc/pam.d/common-auth") == (
        "# one\nauth\t[success=1 default=ignore]\tpam_unix.so nullok\nauth\trequisite\tpam_deny.so\n# end\n"
    )


def test_pam_jump_of_two_modules_is_longer_for_the_first(pam_tree: Tree) -> None:
    pam_tree.add_file("usr/share/pam-configs/sss", SSS)
    pam.make(pam_tree)
    text = pam_tree.read_text("etc/pam.d/common-auth")

    assert (
        "auth\t[success=2 default=ignore]\tpam_unix.so nullok\nauth\t[success=1 default=ignore]\tpam_sss.so\n" in text
    )


def test_pam_stack_without_primary_and_profiles_that_are_off(pam_tree: Tree) -> None:
    pam.make(pam_tree)
    assert pam_tree.read_text("etc/pam.d/common-session") == (
        "session\t[default=1]\t\t\tpam_permit.so\nsession\trequired\tpam_unix.so\n"
    )


def test_pam_state_is_what_pam_auth_update_keeps(pam_tree: Tree) -> None:
    pam.make(pam_tree)
    assert pam_tree.read_text("var/lib/pam/auth") == (
        "Module: unix\n[success=end default=ignore]\tpam_unix.so nullok\n"
    )
    assert pam_tree.read_text("var/lib/pam/seen") == "mkhomedir\nunix\n"


# Scripts

POSTINST = """\
if [ "$1" = configure ]; then
    update-alternatives --install /usr/bin/awk awk /usr/bin/mawk 5 \\
        --slave /usr/bin/nawk nawk /usr/bin/mawk \\
        --slave /usr/share/man/man1/awk.1.gz awk.1.gz /usr/share/man/man1/mawk.1.gz || true
    update-alternatives --install /usr/bin/$x $x /usr/bin/y 5
fi
"""


def test_alternatives_with_variables_are_left_to_the_guest() -> None:
    found = list(scripts.alternatives(POSTINST))
    assert [(one.name, one.path, one.priority) for one in found] == [("awk", "/usr/bin/mawk", 5)]
    assert found[0].slaves[0] == ("/usr/bin/nawk", "nawk", "/usr/bin/mawk")


def test_install_alternatives_links_the_best_and_skips_missing_slaves(tree: Tree) -> None:
    tree.add_file("usr/bin/mawk", "")
    tree.add_file("usr/bin/gawk", "")
    gawk = scripts.Alternative("/usr/bin/awk", "awk", "/usr/bin/gawk", 10)
    scripts.install_alternatives(tree, [*scripts.alternatives(POSTINST), gawk])

    assert tree.entries["usr/bin/awk"].target == "/etc/alternatives/awk"
    assert tree.entries["etc/alternatives/awk"].target == "/usr/bin/gawk"
    assert "usr/share/man/man1/awk.1.gz" not in tree.entries


def test_alternatives_database_has_the_format_of_update_alternatives(tree: Tree) -> None:
    tree.add_file("usr/bin/mawk", "")
    scripts.install_alternatives(tree, list(scripts.alternatives(POSTINST)))

    assert tree.read_text("var/lib/dpkg/alternatives/awk").splitlines() == [
        "auto", "/usr/bin/awk",
        "awk.1.gz", "/usr/share/man/man1/awk.1.gz", "nawk", "/usr/bin/nawk", "",
        "/usr/bin/mawk", "5", "/usr/share/man/man1/mawk.1.gz", "/usr/bin/mawk", "",
    ]  # fmt: skip


def test_enable_unit_links_it_where_its_install_section_says(tree: Tree) -> None:
    tree.add_file("usr/lib/systemd/system/a.service", "[Unit]\nAlias=no\n[Install]\nWantedBy=x.target\nAlso=a.socket\n")
    tree.add_file("usr/lib/systemd/system/a.socket", "[Install]\nWantedBy=sockets.target\nAlias=b.socket\n")

    assert scripts.enable_unit(tree, "a.service")
    links = {path: entry.target for path, entry in tree.entries.items() if entry.is_symlink}
    assert links == {
        "etc/systemd/system/x.target.wants/a.service": "/usr/lib/systemd/system/a.service",
        "etc/systemd/system/sockets.target.wants/a.socket": "/usr/lib/systemd/system/a.socket",
        "etc/systemd/system/b.socket": "/usr/lib/systemd/system/a.socket",
    }


def test_enable_unit_that_is_missing_is_no_error(tree: Tree) -> None:
    assert not scripts.enable_unit(tree, "none.service")


def test_units_masked_and_disabled(tree: Tree) -> None:
    guest.units(tree, first_boot=False)

    assert "disable fstrim.timer\n" in tree.read_text("etc/systemd/system-preset/10-busvm.preset")
    assert tree.entries["etc/systemd/system/getty-static.service"].target == "/dev/null"
    assert "etc/systemd/system/busvm-configure.service" not in tree.entries


def test_units_with_first_boot_have_the_configuring_service(tree: Tree) -> None:
    guest.units(tree, first_boot=True)
    assert "etc/systemd/system/multi-user.target.wants/busvm-configure.service" in tree.entries


def test_shells_has_both_spellings_of_each(tree: Tree) -> None:
    tree.add_file("usr/share/debianutils/shells", "# /etc/shells\n/bin/sh\n")
    tree.add_file("usr/share/debianutils/shells.d/bash", "/bin/bash\n")
    guest.shells(tree)
    assert tree.read_text("etc/shells") == "# /etc/shells\n/bin/sh\n/bin/bash\n/usr/bin/bash\n"
