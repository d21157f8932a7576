"""The guest's own configuration: what an administrator would set up after installing, and what is off in a VM.

docs/images.md tells the user about each choice made here.
"""

from __future__ import annotations

from orchestrator.image import accounts, pam, scripts
from orchestrator.image.packages import Unpacked
from orchestrator.image.tree import Tree

HOSTNAME = "busvm"
PASSWORD = "busvm"
PASSWORD_HASH = "$6$busvm$BhAq44sANcgvg/6X74wP9aX33ry3U54XQNJe0fj4i32kVBcKz29ovkZ9DE0Cm4IXOBAKBn4X/3E/kbMHN5Ecc/"

# Without these, systemd parses the kernel's type information at every boot to load its BPF security hook.
KERNEL_OPTIONS = "lsm=landlock,lockdown,yama"

DISABLED = (  # by a preset, so `systemctl enable` turns them on
    "apt-daily.timer",  # would update package lists over an emulated network
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "fstrim.timer",
    "man-db.timer",
    "systemd-networkd-wait-online.service",
)
MASKED = (
    "getty-static.service",  # gettys on tty2 to tty6 where there is no D-Bus; this machine has no virtual terminals
    "ldconfig.service",
    "modprobe@drm.service",  # logind asks for it; there is no display
    "proc-sys-fs-binfmt_misc.automount",
    "sys-fs-fuse-connections.mount",  # the initramfs has mounted it, without a process
    "sys-kernel-config.mount",  # loads a module; `mount -t configfs` does it where it is needed
    "systemd-hwdb-update.service",  # compiles 10 MB of text that nothing here asks for
    "systemd-journal-catalog-update.service",
    "systemd-sysext.socket",
    "systemd-udev-load-credentials.service",
)
MASKED_GENERATORS = (  # each is a process at every boot, for a way of booting or a kind of disk that is not there
    "debug", "gpt-auto", "hibernate-resume", "rc-local", "run", "ssh", "system-update", "tpm2",
)  # fmt: skip
COLDPLUGGED = ("block", "net", "pci", "virtio", "virtio-ports", "rtc", "input", "sound", "drm", "misc")

FILES = {
    "etc/hostname": HOSTNAME + "\n",
    "etc/hosts": f"127.0.0.1\tlocalhost\n127.0.1.1\t{HOSTNAME}\n::1\t\tlocalhost ip6-localhost ip6-loopback\n",
    "etc/fstab": "# the initramfs mounts the root, which root= on the kernel command line names; it is not checked\n"
    "/dev/root\t/\text4\tdefaults\t0 0\n",
    "etc/machine-id": "",  # systemd makes one at first boot and keeps it
    "etc/locale.conf": "LANG=C.UTF-8\n",
    "etc/environment": "",
    # of a user-mode network (slirp, passt); there is no resolver daemon that would learn it from DHCP
    "etc/resolv.conf": "nameserver 10.0.2.3\n",
    "etc/systemd/network/80-dhcp.network": "[Match]\nType=ether\n\n[Network]\nDHCP=yes\n",
    # networkd runs only in a VM that has a network card
    "etc/udev/rules.d/80-busvm-network.rules": 'SUBSYSTEM=="net", KERNEL!="lo", TAG+="systemd", '
    'ENV{SYSTEMD_WANTS}+="systemd-networkd.service"\n',
    # a process for each connection and none without; dropbear makes its keys when the first one comes
    "etc/systemd/system/busvm-ssh.socket": "[Unit]\nDescription=ssh, by dropbear\n"
    "[Socket]\nListenStream=22\nAccept=yes\n[Install]\nWantedBy=sockets.target\n",
    "etc/systemd/system/busvm-ssh@.service": "[Unit]\nDescription=ssh connection\n"
    "[Service]\nExecStart=-/usr/sbin/dropbear -i -E -R\nStandardInput=socket\nStandardError=journal\n",
    "etc/systemd/system/systemd-logind.service.d/busvm.conf": "# logind without D-Bus only fails\n"
    "[Unit]\nConditionPathExists=/usr/lib/systemd/system/dbus.socket\n",
    "etc/systemd/system/systemd-journal-flush.service.d/busvm.conf": "# else the journal is in memory\n"
    "[Unit]\nConditionPathExists=/var/log/journal\n",
    # Of 1 000 things in /sys those few have something to be set up at boot; what appears later is handled as ever.
    "etc/systemd/system/systemd-udev-trigger.service.d/busvm.conf": "[Service]\nExecStart=\n"
    "ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=tty --sysname-match=tty[A-Z]* "
    "--sysname-match=hvc*\n"
    "ExecStart=-udevadm trigger --type=devices --action=add --prioritized-subsystem=block,net "
    + " ".join(f"--subsystem-match={name}" for name in COLDPLUGGED)
    + "\n",
    # systemd loads them at every boot; asked for by name they load as ever
    "etc/modprobe.d/busvm.conf": "blacklist autofs4\nblacklist ip_tables\n",
    "etc/systemd/journald.conf.d/busvm.conf": "# the journal is in memory unless /var/log/journal is made\n"
    "[Journal]\nStorage=auto\nRuntimeMaxUse=16M\n",
}
FIRST_BOOT = """\
[Unit]
Description=Finish the installation of the packages (dpkg --configure -a)
ConditionPathExists=!/var/lib/busvm/configured
After=basic.target
Before=systemd-user-sessions.service

[Service]
Type=oneshot
Environment=DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true
ExecStart=/usr/bin/dpkg --force-confold --configure -a
ExecStartPost=/usr/bin/mkdir -p /var/lib/busvm
ExecStartPost=/usr/bin/touch /var/lib/busvm/configured
StandardOutput=journal+console
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
"""


def configure(tree: Tree, packages: list[Unpacked], mirror: str, suite: str, *, first_boot: bool) -> None:
    """Make a tree of unpacked packages into a system that boots to a login."""
    base_files(tree)
    accounts.make(tree, PASSWORD_HASH)
    pam.make(tree)
    shells(tree)
    scripts.install_alternatives(tree, [a for package in packages for a in scripts.alternatives(package.postinst)])
    for name, content in FILES.items():
        tree.add_file(name, content)
    tree.add_file(
        "etc/apt/sources.list.d/debian.sources",
        f"Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
    )
    units(tree, first_boot=first_boot)
    for folder in ("etc", "var"):  # so that systemd does not take this boot for one after an update of /usr
        tree.add_file(f"{folder}/.updated", "# made with the image\n")


def base_files(tree: Tree) -> None:
    """Do what the scripts of base-files, libc-bin, dpkg and tzdata do on a new system."""
    templates = "usr/share/base-files"
    for template, path in (
        (f"{templates}/dot.profile", "root/.profile"),
        (f"{templates}/dot.bashrc", "root/.bashrc"),
        (f"{templates}/profile", "etc/profile"),
        (f"{templates}/motd", "etc/motd"),
        (f"{templates}/info.dir", "usr/share/info/dir"),
        ("usr/share/libc-bin/nsswitch.conf", "etc/nsswitch.conf"),
    ):
        tree.add_file(path, tree.read_text(template))
    for folder in ("mnt", "srv", "opt", "etc/opt", "var/opt", "media", "usr/local"):
        tree.add_directory(folder)
    for folder in ("bin", "etc", "games", "include", "lib", "libexec", "sbin", "share", "share/man", "src"):
        tree.add_directory(f"usr/local/{folder}")
    tree.add_symlink("usr/local/man", "share/man")
    tree.add_directory("var/mail", 0o2775, gid=8)
    tree.add_symlink("var/spool/mail", "../mail")
    for name, target in (("var/run", "/run"), ("var/lock", "/run/lock")):
        tree.remove_directory(name)
        tree.add_symlink(name, target)
    for name, mode in (("wtmp", 0o664), ("btmp", 0o660), ("lastlog", 0o664)):
        tree.add_file(f"var/log/{name}", "", mode, gid=43)
    tree.add_file("etc/security/opasswd", "", 0o600)
    tree.add_symlink("etc/dpkg/origins/default", "debian")
    tree.add_symlink("etc/localtime", "/usr/share/zoneinfo/Etc/UTC")
    tree.add_file("var/lib/dpkg/arch-native", "riscv64\n")
    tree.add_file(
        "var/lib/dpkg/diversions",
        "".join(f"/{name}\n/.{name}.usr-is-merged\nbase-files\n" for name in ("lib32", "lib64", "libo32", "libx32")),
    )


def shells(tree: Tree) -> None:
    """Write /etc/shells from what the packages declare, as update-shells(8) does."""
    folder = "usr/share/debianutils/shells.d"
    lines = tree.read_text("usr/share/debianutils/shells").splitlines()
    for name in tree.files_in(folder):
        for line in tree.read_text(f"{folder}/{name}").splitlines():
            lines += [shell for shell in (line, f"/usr{line}") if line.startswith("/") and shell not in lines]
    tree.add_file("etc/shells", "\n".join(lines) + "\n")


def units(tree: Tree, *, first_boot: bool) -> None:
    """Set up what systemd starts at boot."""
    scripts.enable_unit(tree, "remote-fs.target")
    scripts.enable_unit(tree, "busvm-ssh.socket")
    tree.add_directory("etc/dropbear", 0o700)  # its keys
    preset = "".join(f"disable {unit}\n" for unit in DISABLED)
    tree.add_file("etc/systemd/system-preset/10-busvm.preset", preset)
    for unit in MASKED:
        tree.add_symlink(f"etc/systemd/system/{unit}", "/dev/null")
    for generator in MASKED_GENERATORS:
        tree.add_symlink(f"etc/systemd/system-generators/systemd-{generator}-generator", "/dev/null")
    if first_boot:
        tree.add_file("etc/systemd/system/busvm-configure.service", FIRST_BOOT)
        scripts.enable_unit(tree, "busvm-configure.service")
