"""The card's NVM: 64 words with its address, its identity and a checksum (82574 §6.1)."""

from __future__ import annotations

from devproc.e1000e.spec import NVM_WORDS

CHECKSUM_WORD = 0x3F
CHECKSUM = 0xBABA  # what all words add up to (82574 §6.1.2.13)

_COMPATIBILITY = 0x03
_LEDS = 0x04
_PBA_1, _PBA_2 = 0x08, 0x09
_CONTROL_1, _CONTROL_2, _CONTROL_3 = 0x0A, 0x0F, 0x24
_SUBSYSTEM, _SUBSYSTEM_VENDOR, _DEVICE, _VENDOR = 0x0B, 0x0C, 0x0D, 0x0E


def image(mac: bytes, vendor: int, device: int) -> list[int]:
    """Return the words of a card with address ``mac``."""
    words = [0xFFFF] * NVM_WORDS
    words[0:3] = [int.from_bytes(mac[at : at + 2], "little") for at in (0, 2, 4)]
    words[_COMPATIBILITY] = 0x0001  # the checksum is valid: drivers do not correct it
    words[_LEDS] = 0x0000  # the defaults
    words[_PBA_1], words[_PBA_2] = 0x0000, 0x0000  # part number
    words[_CONTROL_1] = 0x4000  # signature of a valid NVM (82574 §6.1.1.5)
    words[_SUBSYSTEM], words[_SUBSYSTEM_VENDOR] = device, vendor
    words[_DEVICE], words[_VENDOR] = device, vendor
    words[_CONTROL_2] = 0x0000  # no manageability firmware
    words[_CONTROL_3] = 0x0000  # no wake-up
    words[CHECKSUM_WORD] = (CHECKSUM - sum(words[:CHECKSUM_WORD])) & 0xFFFF
    return words
