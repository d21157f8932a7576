"""The types of virtio devices (virtio 1.2 §5), as far as a machine has to know about one that it does not serve.

That is: class of the PCI function, how many queues there are for ``--queues N``, and how long the config space
is. What a type has in its queues and most of what stands in its config space is between driver and back-end.
"""

from __future__ import annotations

from dataclasses import dataclass

from protocol.errors import ConfigError
from protocol.virtio_types import NUMBERS, number_of

_OTHER = 0xFF_0000
_ANY_CONFIG = (256, 128, 64, 60, 32, 24, 16, 12, 8, 4)


@dataclass(frozen=True)
class Kind:
    """A type: queues are ``fixed + each * N``, and one more where the feature ``control`` is offered."""

    class_code: int = _OTHER
    fixed: int = 0
    each: int = 1
    control: int = 0
    several: int = 0
    """The feature that goes with N > 1."""
    count: tuple[int, int] = (0, 0)
    """Where N stands in the config space: offset, width; width 0: nowhere."""
    config: tuple[int, ...] = _ANY_CONFIG
    """Lengths of the config space, the newest first: a back-end refuses what goes beyond its own."""
    stream: bool = False
    """Whether buffers come back in the order they were made available, by the nature of the thing."""
    needs_config: int = 0
    """Features that mean a field of the config space: without one they are not offered."""


def _bits(*numbers: int) -> int:
    return sum(1 << number for number in numbers)


KINDS = {  # for others N is the number of queues, which any type may have
    "net": Kind(
        0x02_0000, each=2, control=1 << 17, several=1 << 22, count=(8, 2), config=(24, 20, 17, 12, 10, 8, 6),
        needs_config=_bits(3, 5, 16, 22, 63), stream=True,
    ),
    "blk": Kind(0x01_0000, several=1 << 12, count=(34, 2), config=(96, 72, 60, 36, 32, 8)),
    "console": Kind(0x07_8000, fixed=2, each=0, config=(12, 8, 4), needs_config=_bits(0, 1, 2), stream=True),
    "rng": Kind(fixed=1, each=0, config=(), stream=True),
    "balloon": Kind(fixed=2, each=0),
    "scsi": Kind(0x01_0000, fixed=2, config=(36,), count=(0, 4)),
    "9p": Kind(0x00_0200),
    "gpu": Kind(0x03_8000, fixed=2, each=0),
    "input": Kind(0x09_8000, fixed=2, each=0, config=(136,), stream=True),
    "vsock": Kind(0x07_8000, fixed=3, each=0, config=(8,), stream=True),
    "crypto": Kind(fixed=1),
    "mem": Kind(fixed=1, each=0),
    "sound": Kind(0x04_0100, fixed=4, each=0, config=(16, 12)),
    "fs": Kind(0x01_8000, fixed=1, count=(36, 4), config=(44, 40)),
    "pmem": Kind(fixed=1, each=0, config=(16,)),
    "rpmb": Kind(fixed=1, each=0, config=(3,)),
    "video-encoder": Kind(0x04_8000, fixed=2, each=0),
    "video-decoder": Kind(0x04_8000, fixed=2, each=0),
    "scmi": Kind(fixed=2, each=0, config=()),
    "i2c": Kind(fixed=1, each=0, config=()),
    "watchdog": Kind(fixed=1, each=0),
    "can": Kind(fixed=3, each=0),
    "bluetooth": Kind(fixed=2, each=0),
    "gpio": Kind(fixed=2, each=0, config=(8,)),
}  # fmt: skip


def find(text: str) -> tuple[str, int, Kind]:
    """Return name, number and what is known of the type of this name or number.

    Raises:
        ConfigError: there is none.
    """
    number = number_of(text)
    if number is None:
        raise ConfigError(f"--device {text}: no type of virtio device", hint=f"a number, or {', '.join(NUMBERS)}")
    name = next((name for name, known in NUMBERS.items() if known == number), text)
    return name, number, KINDS.get(name, Kind())
