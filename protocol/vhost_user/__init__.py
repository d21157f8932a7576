"""vhost-user: a virtio device in one process for a virtual machine in another (QEMU's vhost-user.rst).

A library of its own, which needs nothing else of busvm but ``protocol.errors`` and ``protocol.memory``:

* ``messages``: every message of the specification, declared once
* ``connection``: messages and their descriptors on a socket
* ``regions``: the front-end's memory, mapped and checked
* ``back_end``: serves a front-end's requests: negotiation, answers, acknowledgements
* ``front_end``: asks a back-end
"""
