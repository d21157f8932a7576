"""virtio-net: a network card over any network."""
