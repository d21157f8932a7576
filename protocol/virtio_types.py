"""The types of virtio devices by name: the numbers of virtio 1.2 §5."""

from __future__ import annotations

NUMBERS = {
    "net": 1,
    "blk": 2,
    "console": 3,
    "rng": 4,
    "balloon": 5,
    "iomem": 6,
    "rpmsg": 7,
    "scsi": 8,
    "9p": 9,
    "wlan": 10,
    "rproc-serial": 11,
    "caif": 12,
    "memory-balloon": 13,
    "gpu": 16,
    "clock": 17,
    "input": 18,
    "vsock": 19,
    "crypto": 20,
    "signal-distribution": 21,
    "pstore": 22,
    "iommu": 23,
    "mem": 24,
    "sound": 25,
    "fs": 26,
    "pmem": 27,
    "rpmb": 28,
    "hwsim": 29,
    "video-encoder": 30,
    "video-decoder": 31,
    "scmi": 32,
    "nitro": 33,
    "i2c": 34,
    "watchdog": 35,
    "can": 36,
    "parameter-server": 38,
    "audio-policy": 39,
    "bluetooth": 40,
    "gpio": 41,
    "rdma": 42,
}
NUMBER_MAX = 63  # what the device ids 0x1040 to 0x107f of PCI have room for (virtio 1.2 §4.1.2)


def number_of(text: str) -> int | None:
    """Return the number of a type that is given by name or by number; ``None`` if there is none."""
    if text.isdecimal() and text.isascii():
        return int(text) if 1 <= int(text) <= NUMBER_MAX else None
    return NUMBERS.get(text)
