"""A small device to copy: see docs/writing-a-device.md."""
