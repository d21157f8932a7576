"""The translator's emitter for x86-64."""
