"""Kernel images, device tree, and the SBI that stands in for firmware."""
