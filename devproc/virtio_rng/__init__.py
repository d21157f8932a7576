"""virtio-rng: random numbers for the guest's kernel."""
