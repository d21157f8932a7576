"""A vhost-user front-end in Python: reads the first sector of somebody's disk, and prints it (docs/vhost-user.md).

python examples/vhost_user_front_end.py disk.sock
"""

import os
import struct
import sys
from pathlib import Path

from protocol.memory import GuestMemory, Shared
from protocol.vhost_user.front_end import FrontEnd, event
from protocol.vhost_user.messages import ProtocolFeature
from protocol.vhost_user.payloads import Region

BASE, SIZE, RING = 0x4000_0000, 1 << 20, 4
DESC, AVAIL, USED, HEADER, DATA, STATUS = (BASE + offset for offset in (0, 0x100, 0x200, 0x300, 0x400, 0x800))
NEXT, WRITE = 1, 2
VERSION_1 = 1 << 32

fd = os.memfd_create("guest")
os.ftruncate(fd, SIZE)
memory = GuestMemory(Shared(fd, SIZE), BASE)
kick, call = event(), event()
with FrontEnd.connect(Path(sys.argv[1])) as front:
    front.negotiate(VERSION_1, ProtocolFeature.CONFIG | ProtocolFeature.REPLY_ACK | ProtocolFeature.MQ)
    sys.stderr.write(f"{int.from_bytes(front.config(8), 'little')} sectors\n")
    front.share([(Region(BASE, SIZE, BASE, 0), fd)])  # our own addresses are the guest's here
    front.start_ring(0, RING, (DESC, AVAIL, USED), kick, call)
    memory.write(HEADER, struct.pack("<IIQ", 0, 0, 0))  # read from sector 0 (virtio 1.2 §5.2.6)
    memory.write(STATUS, b"\xff")
    chain = [(HEADER, 16, NEXT, 1), (DATA, 512, NEXT | WRITE, 2), (STATUS, 1, WRITE, 0)]
    memory.write(DESC, b"".join(struct.pack("<QIHH", *descriptor) for descriptor in chain))
    memory.write(AVAIL, struct.pack("<HHH", 0, 1, 0))  # flags, index, and the head of the first chain
    os.eventfd_write(kick, 1)
    os.set_blocking(call, True)
    while memory.load(USED + 2, 2) != 1:
        os.eventfd_read(call)
    front.stop_ring(0)
status = memory.load(STATUS, 1)
sys.stdout.buffer.write(memory.read(DATA, 512) if status == 0 else b"")
sys.exit(status)
