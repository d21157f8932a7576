"""Intel's 82574L, a PCI Express network card for which every kernel has a driver: Linux's is e1000e."""
