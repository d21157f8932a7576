"""Commands and state of virtio-net, by the names of virtio 1.2 §5.1; frames and features are in ``devproc.network``."""

from __future__ import annotations

from enum import IntEnum

from devproc.state import Record, Word

LINK_UP, ANNOUNCE = 1, 2  # bits of `status`


class Class(IntEnum):
    """Classes of control commands (§5.1.6.5)."""

    RX = 0
    MAC = 1
    VLAN = 2
    ANNOUNCE = 3
    MQ = 4
    GUEST_OFFLOADS = 5
    NOTF_COAL = 6


class Rx(IntEnum):
    """Commands of class RX: modes of reception."""

    PROMISC = 0
    ALLMULTI = 1
    ALLUNI = 2
    NOMULTI = 3
    NOUNI = 4
    NOBCAST = 5


MAC_TABLE_SET, MAC_ADDR_SET = 0, 1
VLAN_ADD, VLAN_DEL = 0, 1
ANNOUNCE_ACK = 0
VQ_PAIRS_SET = 0
GUEST_OFFLOADS_SET = 0
COAL_TX_SET, COAL_RX_SET = 0, 1
OK, ERR = 0, 1

MAC_TABLE_MAX = 64  # as QEMU's; a longer one stands for all addresses
VLANS = 4096
COMMAND_MAX = 0x4000  # bytes of a command that are looked at: two tables of more than a thousand addresses


class CardState(Record):
    """What the driver has said, which outlives the process; two tables of addresses and a bit per VLAN follow."""

    modes = Word(4, "bit n: mode n of ``Rx``")
    overflow = Word(4, "bit 0: all unicast, bit 1: all multicast, because a table was too long")
    uni = Word(2, "entries of the unicast table")
    multi = Word(2, "entries of the multicast table")
    pairs = Word(4, "pairs of queues in use")
    offloads = Word(8, "what the driver wants to find in headers, with CTRL_GUEST_OFFLOADS")
    tx_packets = Word(4, "coalescing: frames sent before an interrupt")
    tx_usecs = Word(4, "and microseconds")
    rx_packets = Word(4, "coalescing: frames received before an interrupt")
    rx_usecs = Word(4, "and microseconds")


TABLES_SIZE = 2 * MAC_TABLE_MAX * 8 + VLANS // 8
