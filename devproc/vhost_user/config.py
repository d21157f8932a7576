"""What the arguments say about a device, and the config space where the back-end has none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from devproc.vhost_user.kinds import Kind
from protocol.errors import ConfigError

TAG_MAX = 36  # virtio 1.2 §5.11.4
_MAC, _STATUS = 1 << 5, 1 << 16  # virtio 1.2 §5.1.3
_LINK_UP = 1


@dataclass(frozen=True)
class Config:
    """The configuration of a device."""

    socket: Path
    device: str
    number: int
    kind: Kind
    queues: int
    queue_size: int
    wait_s: float = 0.0
    tag: str = ""
    mac: str = ""

    def own_space(self) -> tuple[bytes, int]:
        """Return the config space that follows from the arguments, and the features that it stands for.

        Raises:
            ConfigError: the type needs more than was said.
        """
        if self.device == "fs":
            if not self.tag:
                return b"", 0
            return self.tag.encode().ljust(TAG_MAX, b"\0") + self.queues.to_bytes(4, "little"), 0
        if self.device == "net" and self.mac:
            pairs = self.queues.to_bytes(2, "little")
            return bytes.fromhex(self.mac.replace(":", "")) + _LINK_UP.to_bytes(2, "little") + pairs, _MAC | _STATUS
        return b"", 0

    def check(self) -> None:
        """Check what belongs to one type.

        Raises:
            ConfigError: an option of another type, or no value of its own.
        """
        for option, value, device in (("tag", self.tag, "fs"), ("mac", self.mac, "net")):
            if value and self.device != device:
                raise ConfigError(f"--{option} is for --device {device}")
        if len(self.tag.encode()) > TAG_MAX:
            raise ConfigError(f"--tag has more than {TAG_MAX} bytes")
        if self.mac and not re.fullmatch(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}", self.mac):
            raise ConfigError(f"--mac {self.mac}: six pairs of hexadecimal digits with colons")
