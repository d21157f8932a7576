#!/bin/sh
# Builds a small riscv64 kernel with a native PCIe hot-plug driver (pciehp), which Debian's kernels lack, for
# tests/guest/test_pciehp.py: BUSVM_PCIEHP_KERNEL=OUT/arch/riscv/boot/Image.
#
#   tests/peers/pciehp_kernel.sh SOURCE OUT
#
# SOURCE is an unpacked Linux 6.12 or later (Debian: linux-source-6.12), OUT a new folder. Needs make, flex, bison, bc
# and gcc-riscv64-linux-gnu. One job at low priority: about a quarter of an hour.
set -eu
source=$1 out=$2
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$out/guest"
out=$(cd "$out" && pwd)
cross="ARCH=riscv CROSS_COMPILE=riscv64-linux-gnu- KBUILD_BUILD_TIMESTAMP=2000-01-01"
riscv64-linux-gnu-gcc -static -Os -s -o "$out/guest/init" "$here/pciehp_init.c"
cat > "$out/guest/initramfs.txt" <<END
dir /dev 0755 0 0
nod /dev/console 0600 0 0 c 5 1
dir /proc 0755 0 0
dir /sys 0755 0 0
file /init $out/guest/init 0755 0 0
END
make -C "$source" O="$out" $cross tinyconfig
cat >> "$out/.config" <<END
CONFIG_MMU=y
CONFIG_SMP=y
CONFIG_FPU=y
CONFIG_EXPERT=y
CONFIG_PRINTK=y
CONFIG_PRINTK_TIME=y
CONFIG_BUG=y
CONFIG_FUTEX=y
CONFIG_TTY=y
CONFIG_SERIAL_8250=y
CONFIG_SERIAL_8250_CONSOLE=y
CONFIG_SERIAL_OF_PLATFORM=y
CONFIG_BLOCK=y
CONFIG_BLK_DEV=y
CONFIG_BLK_DEV_INITRD=y
CONFIG_INITRAMFS_SOURCE="$out/guest/initramfs.txt"
CONFIG_BINFMT_ELF=y
CONFIG_PROC_FS=y
CONFIG_SYSFS=y
CONFIG_DEVTMPFS=y
CONFIG_NET=n
CONFIG_PCI=y
CONFIG_PCI_MSI=y
CONFIG_PCI_HOST_GENERIC=y
CONFIG_PCIEPORTBUS=y
CONFIG_HOTPLUG_PCI=y
CONFIG_HOTPLUG_PCI_PCIE=y
CONFIG_DYNAMIC_DEBUG=y
CONFIG_DEBUG_FS=y
CONFIG_VIRTIO_MENU=y
CONFIG_VIRTIO_PCI=y
CONFIG_VIRTIO_BLK=y
CONFIG_HW_RANDOM=y
CONFIG_HW_RANDOM_VIRTIO=y
CONFIG_MFD_SYSCON=y
CONFIG_POWER_RESET=y
CONFIG_POWER_RESET_SYSCON=y
CONFIG_POWER_RESET_SYSCON_POWEROFF=y
END
make -C "$source" O="$out" $cross olddefconfig
for wanted in HOTPLUG_PCI_PCIE PCI_HOST_GENERIC VIRTIO_BLK SERIAL_8250_CONSOLE RISCV_IMSIC SIFIVE_PLIC; do
    grep -q "^CONFIG_$wanted=y" "$out/.config" || { echo "CONFIG_$wanted is not set" >&2; exit 1; }
done
nice -n 19 make -C "$source" O="$out" $cross -j1 Image
