"""The types of devices that come with busvm, and the modules that run them."""

from __future__ import annotations

from orchestrator.keys.key import DeviceType

DEVICE_TYPES = {
    "virtio-blk": DeviceType("devproc.virtio_blk", "A disk over a raw image or a block device."),
    "virtio-console": DeviceType(
        "devproc.virtio_console", "A terminal, and named ports to programs on the host.", exclusive=True
    ),
    "virtio-net": DeviceType("devproc.virtio_net", "A network card.", exclusive=True),
    "virtio-rng": DeviceType("devproc.virtio_rng", "Random numbers for the guest's kernel."),
    "e1000e": DeviceType("devproc.e1000e", "Intel's network card 82574L, for guests without virtio.", exclusive=True),
    "vhost-user": DeviceType(
        "devproc.vhost_user", "A device that somebody else's vhost-user back-end serves.", exclusive=True
    ),
    "ivshmem-plain": DeviceType("devproc.ivshmem.plain", "Memory shared with other machines and programs."),
    "ivshmem-doorbell": DeviceType(
        "devproc.ivshmem.doorbell", "Shared memory, with peers that ring each other.", exclusive=True
    ),
    "ivshmem-flat": DeviceType(
        "devproc.ivshmem.flat", "The same without PCI, named in the device tree.", exclusive=True
    ),
}

BLK = ("virtio-blk",)
NETWORK_CARDS = ("e1000e", "virtio-net")
VIRTIO_NET = ("virtio-net",)
RNG = ("virtio-rng",)
CONSOLE = ("virtio-console",)
VHOST_USER = ("vhost-user",)
PLAIN = ("ivshmem-plain",)
PEERS = ("ivshmem-doorbell", "ivshmem-flat")
IVSHMEM = PLAIN + PEERS
