"""Faults on demand: rules that make a device err where its driver's author wants it to (docs/faults.md)."""
