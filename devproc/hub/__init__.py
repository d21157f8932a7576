"""A hub: a switch between machines, ours and others'."""
