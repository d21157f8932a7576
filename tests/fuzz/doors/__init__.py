"""Bad messages at every socket of a running VM, and whether its processes still do what they should."""
