"""virtio-console: a terminal for the guest's kernel, and named ports to programs on the host."""
