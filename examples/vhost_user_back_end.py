"""A vhost-user back-end in Python: an entropy source. It serves one front-end (docs/vhost-user.md).

python examples/vhost_user_back_end.py rng.sock
"""

import os
import select
import socket
import sys
from contextlib import suppress

from protocol.errors import PeerGone
from protocol.vhost_user.back_end import BackEnd
from protocol.vhost_user.connection import Connection
from protocol.vhost_user.messages import ProtocolFeature, Request
from protocol.vhost_user.payloads import U64, MemTable, VringAddr, VringState
from protocol.vhost_user.regions import Regions

regions, ring = Regions(), {"kick": -1}


def set_mem_table(message):
    regions.set([(region, message.take_fd()) for region in message.get(MemTable).regions])


def set_addr(message):
    addr, base = message.get(VringAddr), regions.memory.base
    ring.update({name: regions.translate(getattr(addr, name), 2) - base for name in ("desc", "avail", "used")})


def serve():
    """Fill every buffer that is available, one descriptor each, and interrupt (virtio 1.2 §2.7)."""
    os.eventfd_read(ring["kick"])
    ram, size = regions.memory.ram, ring["size"]
    while ring["base"] != ram.load(ring["avail"] + 2, 2):
        head = ram.load(ring["avail"] + 4 + 2 * (ring["base"] % size), 2)
        address, length = ram.load(ring["desc"] + 16 * head, 8), ram.load(ring["desc"] + 16 * head + 8, 4)
        regions.memory.write(address, os.urandom(length))
        entry = ring["used"] + 4 + 8 * (ring["base"] % size)
        ram.store(entry, 4, head)
        ram.store(entry + 4, 4, length)
        ring["base"] = ring["base"] + 1 & 0xFFFF
        ram.store(ring["used"] + 2, 2, ring["base"])
    os.eventfd_write(ring["call"], 1)


handlers = {
    Request.SET_MEM_TABLE: set_mem_table,
    Request.SET_VRING_NUM: lambda message: ring.update(size=message.get(VringState).num),
    Request.SET_VRING_BASE: lambda message: ring.update(base=message.get(VringState).num),
    Request.SET_VRING_ADDR: set_addr,
    Request.SET_VRING_CALL: lambda message: ring.update(call=message.take_fd()),
    Request.SET_VRING_KICK: lambda message: ring.update(kick=message.take_fd()),
    Request.GET_VRING_BASE: lambda message: VringState(0, ring["base"]),
    Request.GET_QUEUE_NUM: lambda message: U64(1),
}
for unimportant in (Request.SET_OWNER, Request.SET_FEATURES, Request.SET_VRING_ENABLE, Request.SET_VRING_ERR):
    handlers[unimportant] = lambda message: None

with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    sock, _ = listener.accept()
os.unlink(sys.argv[1])
offered = ProtocolFeature.MQ | ProtocolFeature.REPLY_ACK
back_end = BackEnd(Connection(sock), handlers, features=lambda: 1 << 32, protocol_features=offered)  # VERSION_1
with suppress(PeerGone):
    while True:
        kicks = [ring["kick"]] if ring["kick"] >= 0 else []
        if sock in select.select([sock, *kicks], [], [])[0]:
            back_end.step()
        else:
            serve()
