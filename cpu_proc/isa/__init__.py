"""Instruction tables: encodings and semantics, each written once."""
