"""The initramfs: busybox, the modules that reach a virtio disk, and the script that switches to the root on it.

Debian's own serves any machine, with udev and hooks of packages. This one is made for a virtio disk with ext4: it loads
a few modules in a fixed order, decompressed here so that the guest need not do it. Same inputs give the same bytes.
"""

from __future__ import annotations

import os

from orchestrator.image import cpio

BANNER = "busvm initramfs: up"
MODULES = (  # in the order of loading, each with the modalias of the device it is for, or "" to load it always
    ("virtio_pci", ""),
    ("virtio_mmio", "Cvirtio,mmio"),
    ("virtio_blk", ""),
    ("virtio_console", "virtio:d00000003"),
    ("virtio_net", "virtio:d00000001"),
    ("virtio_rng", "virtio:d00000004"),
    ("crc32c_generic", ""),
    ("ext4", ""),
)
DISK_WAIT_S = 5

INIT = r"""#!/bin/sh
# The first program of the machine. Kernel command line, as Debian's initramfs has it:
#   root=/dev/vda | UUID=… | LABEL=…   ro rw   rootfstype= rootflags= rootdelay= rootwait   init=   break
# and of busvm: busvm.shell (a shell in place of the root), busvm.wait=SECONDS (for the disk to appear).
export PATH=/bin
echo "@BANNER@"
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t debugfs debugfs /sys/kernel/debug
mount -t tracefs tracefs /sys/kernel/tracing
mount -t fusectl fusectl /sys/fs/fuse/connections
mkdir /dev/mqueue /dev/hugepages
mount -t mqueue -o nosuid,nodev,noexec mqueue /dev/mqueue
mount -t hugetlbfs hugetlbfs /dev/hugepages

say() { echo "busvm initramfs: $*"; }

shell() {
    say "a shell, ending it powers the machine off"
    setsid cttyhack sh
    poweroff -f
}

root=/dev/vda flags= mode=ro type=ext4 init=/sbin/init wait=@WAIT@ stop=
for word in $(cat /proc/cmdline); do
    case $word in
    root=*) root=${word#root=} ;;
    rootflags=*) flags=,${word#rootflags=} ;;
    rootfstype=*) type=${word#rootfstype=} ;;
    rootdelay=*) wait=${word#rootdelay=} ;;
    rootwait) wait=1000000 ;;
    busvm.wait=*) wait=${word#busvm.wait=} ;;
    init=*) init=${word#init=} ;;
    ro | rw) mode=$word ;;
    break | break=* | busvm.shell) stop=$word ;;
    esac
done

# Loading a module costs 0.05 to 1 billion instructions, signature and relocation: one that is for a kind of device is
# loaded only if there is such a device. The root system loads it when one appears.
while read -r module kind; do
    case $kind in "") ;; *) grep -qs "$kind" /sys/bus/*/devices/*/modalias || continue ;; esac
    insmod "/lib/modules/$module" || say "$module does not load"
done </lib/modules/order

case $stop in
busvm.shell | break=modules) shell ;;
esac

device() {
    case $root in
    UUID=* | LABEL=*) findfs "$root" 2>/dev/null ;;
    *) [ -b "$root" ] && echo "$root" ;;
    esac
}

tenths=$((wait * 10))
until disk=$(device); do
    if [ $tenths -le 0 ]; then
        say "no disk $root after $wait s; root= on the kernel command line names another"
        shell
    fi
    tenths=$((tenths - 1))
    usleep 100000
done

if ! mount -t "$type" -o "$mode$flags" "$disk" /root; then
    say "$disk cannot be mounted as $type ($mode$flags)"
    shell
fi
[ -n "$stop" ] && { say "$disk is on /root"; setsid cttyhack sh; }
if ! [ -x "/root$init" ] && ! [ -L "/root$init" ]; then
    say "$disk has no $init"
    shell
fi
mount -o move /proc /root/proc
mount -o move /sys /root/sys
mount -o move /dev /root/dev
exec switch_root /root "$init"
"""


def build(busybox: bytes, modules: list[tuple[str, str, bytes]]) -> bytes:
    """Return the gzipped archive; ``modules`` are (file name, modalias, ELF) in the order of loading."""
    members = [cpio.directory(name) for name in ("bin", "dev", "lib", "lib/modules", "proc", "root", "sys", "tmp")]
    script = INIT.replace("@BANNER@", BANNER).replace("@WAIT@", str(DISK_WAIT_S))
    members += [
        cpio.character_device("dev/console", 5, 1),
        cpio.character_device("dev/null", 1, 3, 0o666),
        cpio.file("init", script.encode(), 0o755),
        cpio.file("bin/busybox", busybox, 0o755),
        cpio.symlink("bin/sh", "busybox"),
        cpio.file("lib/modules/order", "".join(f"{name} {kind}\n" for name, kind, _ in modules).encode()),
        *(cpio.file(f"lib/modules/{name}", elf) for name, _, elf in modules),
    ]
    return cpio.compressed(members, mtime=source_date())


def source_date() -> int:
    """Return SOURCE_DATE_EPOCH (reproducible-builds.org), or the beginning of 2025."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    return int(text) if text.isdigit() else 1735689600
