"""The PCIe root complex and the proxies of remote functions."""
