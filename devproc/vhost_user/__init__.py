"""A virtio device of our machine whose requests somebody else's vhost-user back-end serves."""
