"""The CPU process: harts, guest RAM, interrupt controllers, PCIe root."""
