"""The card's register file, declared: 82574 §10.2. What registers do is ``device``'s part.

Most are storage: the driver tells the card what it is to do, and the card looks at it when there is something to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devproc.e1000e.spec import NVM_WORDS, Ctrl, Eecd, State
from devproc.e1000e.statistics import Statistic
from devproc.pci import PciDevice
from devproc.registers import CONFIG, Bar, Register

if TYPE_CHECKING:
    from devproc.e1000e.interrupts import Interrupts

EXPRESS_CAP = 0xE0
_CAP_EXPRESS = 0x10
_DEVICE_CONTROL = 0x2810  # after power-on: relaxed ordering, no snoop, reads of 512 bytes (PCIe 2.0 §7.8.4)

RX_RING, TX_RING, TAIL = 0x2800, 0x3800, 0x18
MTA, RA, VFTA = 0x5200, 0x5400, 0x5600
ADDRESSES, TABLE = 16, 128  # pairs of RAL and RAH; words of MTA and of VFTA


class RegisterFile(PciDevice):
    """Registers of an 82574L."""

    vendor, device, class_code = 0x8086, 0x10D3, 0x02_0000
    vectors = 5
    msix_bar = 3
    own_express = True
    doorbells = 2
    """One for each tail: receive, transmit."""
    bar0 = Bar(0x2_0000)

    pcie_device_control = Register(
        CONFIG, EXPRESS_CAP + 8, width=2, mask=0x7FFF, doc="PCI Express device control; no meaning, kept for the guest."
    )
    pcie_link_control = Register(
        CONFIG, EXPRESS_CAP + 0x10, width=2, mask=0x01FB, doc="PCI Express link control; kept for the guest."
    )

    ctrl = Register(bar0, 0x0000, reset=Ctrl.FD | Ctrl.SLU | Ctrl.SPEED_1000, sync=True, doc="Device control.")
    status = Register(bar0, 0x0008, access="r", doc="Device status: link, speed.")
    eecd = Register(bar0, 0x0010, reset=Eecd.PRES | Eecd.AUTO_RD, store=False, doc="NVM control.")
    eerd = Register(bar0, 0x0014, store=False, doc="NVM read: start and word; done and data.")
    ctrl_ext = Register(bar0, 0x0018, doc="Extended device control: auto-mask.")
    fla = Register(bar0, 0x001C, doc="Flash access; there is no flash.")
    mdic = Register(bar0, 0x0020, store=False, doc="PHY register access.")
    fcal = Register(bar0, 0x0028, doc="Flow control address, low half.")
    fcah = Register(bar0, 0x002C, doc="Flow control address, high half.")
    fct = Register(bar0, 0x0030, doc="Flow control type.")
    vet = Register(bar0, 0x0038, reset=0x8100, doc="EtherType of VLAN tags.")
    icr = Register(bar0, 0x00C0, store=False, doc="Interrupt causes. Reading takes them.")
    itr = Register(bar0, 0x00C4, doc="Interrupt throttling; kept for the guest.")
    ics = Register(bar0, 0x00C8, access="w", store=False, doc="Sets causes.")
    ims = Register(bar0, 0x00D0, store=False, doc="Interrupt mask. Ones set.")
    imc = Register(bar0, 0x00D8, access="w", store=False, sync=True, doc="Ones clear bits of the mask.")
    eiac = Register(bar0, 0x00DC, doc="Causes that their message clears.")
    iam = Register(bar0, 0x00E0, doc="Mask bits that are cleared by themselves.")
    ivar = Register(bar0, 0x00E4, doc="Which message each cause has.")
    eitr_0 = Register(bar0, 0x00E8, doc="Throttling of message 0; kept for the guest.")
    eitr_1 = Register(bar0, 0x00EC, doc="Of message 1.")
    eitr_2 = Register(bar0, 0x00F0, doc="Of message 2.")
    eitr_3 = Register(bar0, 0x00F4, doc="Of message 3.")
    eitr_4 = Register(bar0, 0x00F8, doc="Of message 4.")
    rctl = Register(bar0, 0x0100, mask=0xFFFF_FFFE, doc="Receive control.")
    fcttv = Register(bar0, 0x0170, doc="Flow control transmit timer.")
    txcw = Register(bar0, 0x0178, doc="Transmit configuration.")
    rxcw = Register(bar0, 0x0180, access="r", doc="Receive configuration.")
    tctl = Register(bar0, 0x0400, mask=0xFFFF_FFFE, doc="Transmit control.")
    tctl_ext = Register(bar0, 0x0404, doc="Extended transmit control.")
    tipg = Register(bar0, 0x0410, reset=0x0060_2008, doc="Gap between frames.")
    ait = Register(bar0, 0x0458, doc="Adaptive gap.")
    ledctl = Register(bar0, 0x0E00, reset=0x0706_1302, doc="LEDs.")
    extcnf_ctrl = Register(
        bar0, 0x0F00, reset=0x8, doc="Extended configuration; bit 5 is the driver's claim on the PHY."
    )
    extcnf_size = Register(bar0, 0x0F08, doc="Size of the extended configuration.")
    poemb = Register(bar0, 0x0F10, doc="PHY power saving.")
    pba = Register(bar0, 0x1000, reset=0x0014_0014, doc="Kilobytes of packet memory for either direction.")
    eemngctl = Register(bar0, 0x1010, access="r", reset=1 << 31 | 1 << 18, doc="Configuration from the NVM is done.")
    eewr = Register(bar0, 0x102C, store=False, doc="NVM write: start, word and data; done.")
    flop = Register(bar0, 0x103C, doc="Flash opcodes.")
    ert = Register(bar0, 0x2008, doc="Early receive threshold.")
    fcrtl = Register(bar0, 0x2160, doc="Flow control threshold, low.")
    fcrth = Register(bar0, 0x2168, doc="Flow control threshold, high.")
    psrctl = Register(bar0, 0x2170, reset=0x0004_0402, doc="Sizes of the buffers of a split frame.")

    rdbal = Register(bar0, RX_RING, doc="Receive ring: address, low half.")
    rdbah = Register(bar0, RX_RING + 4, doc="High half.")
    rdlen = Register(bar0, RX_RING + 8, doc="Its bytes.")
    rdh = Register(bar0, RX_RING + 0x10, mask=0xFFFF, doc="Next descriptor that the card fills.")
    rdt = Register(bar0, RX_RING + TAIL, rings=True, doc="Where the descriptors end that the card may fill.")
    rdtr = Register(bar0, 0x2820, doc="Receive delay; there is none.")
    rxdctl_0 = Register(bar0, 0x2828, reset=0x0001_0000, doc="Descriptor fetching of queue 0.")
    radv = Register(bar0, 0x282C, doc="Longest receive delay.")
    tdbal = Register(bar0, TX_RING, doc="Transmit ring: address, low half.")
    tdbah = Register(bar0, TX_RING + 4, doc="High half.")
    tdlen = Register(bar0, TX_RING + 8, doc="Its bytes.")
    tdh = Register(bar0, TX_RING + 0x10, mask=0xFFFF, doc="Next descriptor that the card sends.")
    tdt = Register(bar0, TX_RING + TAIL, rings=True, doc="Where the descriptors end that the card is to send.")
    tidv = Register(bar0, 0x3820, doc="Transmit interrupt delay; there is none.")
    txdctl_0 = Register(bar0, 0x3828, doc="Descriptor fetching of queue 0.")
    tadv = Register(bar0, 0x382C, doc="Longest transmit interrupt delay.")
    tarc_0 = Register(bar0, 0x3840, reset=0x0000_0403, doc="Arbitration of queue 0.")

    rxcsum = Register(bar0, 0x5000, doc="Receive checksums.")
    rfctl = Register(bar0, 0x5008, doc="Receive filter control: extended descriptors.")
    wuc = Register(bar0, 0x5800, doc="Wake-up control; the card wakes nobody.")
    wufc = Register(bar0, 0x5808, doc="Wake-up filters.")
    wus = Register(bar0, 0x5810, doc="Wake-up status.")
    mrqc = Register(bar0, 0x5818, doc="Spreading over queues; all frames go to queue 0.")
    manc = Register(bar0, 0x5820, doc="Management control; there is no management.")
    manc2h = Register(bar0, 0x5860, doc="Management to host.")
    gcr = Register(bar0, 0x5B00, doc="PCI Express control.")
    factps = Register(bar0, 0x5B30, access="r", reset=0x2000_0001, doc="Function and power states.")
    swsm = Register(bar0, 0x5B50, doc="Software semaphore. Reading takes bit 0.")
    fwsm = Register(bar0, 0x5B54, access="r", doc="Firmware semaphore; there is no firmware.")
    swsm2 = Register(bar0, 0x5B58, doc="Driver's semaphore.")
    gcr2 = Register(bar0, 0x5B64, doc="PCI Express control.")
    systiml = Register(bar0, 0xB600, doc="Precision time, low half; it stands still.")
    systimh = Register(bar0, 0xB604, doc="High half.")
    timinca = Register(bar0, 0xB608, doc="Its speed.")
    timadjl = Register(bar0, 0xB60C, doc="Its adjustment.")
    timadjh = Register(bar0, 0xB610, doc="High half.")
    tsynctxctl = Register(bar0, 0xB614, doc="Transmit time stamps; none are taken.")
    txstmpl = Register(bar0, 0xB618, access="r", doc="Transmit time stamp.")
    txstmph = Register(bar0, 0xB61C, access="r", doc="High half.")
    tsyncrxctl = Register(bar0, 0xB620, doc="Receive time stamps; none are taken.")
    rxstmpl = Register(bar0, 0xB624, access="r", doc="Receive time stamp.")
    rxstmph = Register(bar0, 0xB628, access="r", doc="High half.")
    rxmtrl = Register(bar0, 0xB634, doc="Frames to be stamped.")
    rxudp = Register(bar0, 0xB638, doc="Their UDP port.")

    # kept for the guest: queue 1, which is never used
    for _name, _at in (("rdbal", 0x2900), ("rdbah", 0x2904), ("rdlen", 0x2908), ("rdh", 0x2910), ("rdt", 0x2918),
                       ("rxdctl", 0x2928), ("tdbal", 0x3900), ("tdbah", 0x3904), ("tdlen", 0x3908), ("tdh", 0x3910),
                       ("tdt", 0x3918), ("txdctl", 0x3928), ("tarc", 0x3940)):  # fmt: skip
        vars()[f"{_name}_1"] = Register(bar0, _at, doc="Of queue 1, which is not used.")
    for _name, _at, _count, _step, _doc in (
        ("mta", MTA, TABLE, 4, "Multicast filter."),
        ("ral", RA, ADDRESSES, 8, "Address, low half."),
        ("rah", RA + 4, ADDRESSES, 8, "Address, high half, and whether it counts."),
        ("vfta", VFTA, TABLE, 4, "VLAN filter."),
        ("reta", 0x5C00, 32, 4, "Redirection; all frames go to queue 0."),
        ("rssrk", 0x5C80, 10, 4, "Key of the receive hash; none is made."),
        ("mdef", 0x5890, 8, 4, "Management decision; there is no management."),
    ):
        for _index in range(_count):
            vars()[f"{_name}_{_index}"] = Register(bar0, _at + _step * _index, doc=_doc)
    for _name, _at, _counted, _doc in (
        ("crcerrs", 0x4000, 0, "CRC errors."), ("algnerrc", 0x4004, 0, "Alignment errors."),
        ("symerrs", 0x4008, 0, "Symbol errors."), ("rxerrc", 0x400C, 0, "Receive errors."),
        ("mpc", 0x4010, 1, "Frames missed for want of room."), ("scc", 0x4014, 0, "Single collisions."),
        ("ecol", 0x4018, 0, "Excessive collisions."), ("mcc", 0x401C, 0, "Multiple collisions."),
        ("latecol", 0x4020, 0, "Late collisions."), ("colc", 0x4028, 0, "Collisions."), ("dc", 0x4030, 0, "Defers."),
        ("tncrs", 0x4034, 0, "Sent without carrier."), ("sec", 0x4038, 0, "Sequence errors."),
        ("cexterr", 0x403C, 0, "Carrier extension errors."), ("rlec", 0x4040, 0, "Length errors."),
        ("xonrxc", 0x4048, 0, "XON received."), ("xontxc", 0x404C, 0, "XON sent."),
        ("xoffrxc", 0x4050, 0, "XOFF received."), ("xofftxc", 0x4054, 0, "XOFF sent."),
        ("fcruc", 0x4058, 0, "Unsupported flow control."),
        ("prc64", 0x405C, 1, "Received frames of 64 bytes."), ("prc127", 0x4060, 1, "Up to 127 bytes."),
        ("prc255", 0x4064, 1, "Up to 255 bytes."), ("prc511", 0x4068, 1, "Up to 511 bytes."),
        ("prc1023", 0x406C, 1, "Up to 1023 bytes."), ("prc1522", 0x4070, 1, "Longer."),
        ("gprc", 0x4074, 1, "Frames received."), ("bprc", 0x4078, 1, "Broadcast frames received."),
        ("mprc", 0x407C, 1, "Multicast frames received."), ("gptc", 0x4080, 1, "Frames sent."),
        ("gorcl", 0x4088, 1, "Bytes received."), ("gorch", 0x408C, 1, "High half."),
        ("gotcl", 0x4090, 1, "Bytes sent."), ("gotch", 0x4094, 1, "High half."),
        ("rnbc", 0x40A0, 1, "Frames for which there was no buffer."), ("ruc", 0x40A4, 1, "Too short frames."),
        ("rfc", 0x40A8, 0, "Fragments."), ("roc", 0x40AC, 1, "Too long frames."), ("rjc", 0x40B0, 0, "Jabber."),
        ("mgtprc", 0x40B4, 0, "Management frames received."), ("mgtpdc", 0x40B8, 0, "Management frames dropped."),
        ("mgtptc", 0x40BC, 0, "Management frames sent."), ("torl", 0x40C0, 1, "All bytes received."),
        ("torh", 0x40C4, 1, "High half."), ("totl", 0x40C8, 1, "All bytes sent."), ("toth", 0x40CC, 1, "High half."),
        ("tpr", 0x40D0, 1, "All frames received."), ("tpt", 0x40D4, 1, "All frames sent."),
        ("ptc64", 0x40D8, 1, "Sent frames of 64 bytes."), ("ptc127", 0x40DC, 1, "Up to 127 bytes."),
        ("ptc255", 0x40E0, 1, "Up to 255 bytes."), ("ptc511", 0x40E4, 1, "Up to 511 bytes."),
        ("ptc1023", 0x40E8, 1, "Up to 1023 bytes."), ("ptc1522", 0x40EC, 1, "Longer."),
        ("mptc", 0x40F0, 1, "Multicast frames sent."), ("bptc", 0x40F4, 1, "Broadcast frames sent."),
        ("tsctc", 0x40F8, 1, "Packets cut into segments."), ("tsctfc", 0x40FC, 1, "Packets that could not be cut."),
        ("iac", 0x4100, 0, "Interrupts."), ("icrxptc", 0x4104, 0, "Receive timer."),
        ("icrxatc", 0x4108, 0, "Absolute receive timer."), ("ictxptc", 0x410C, 0, "Transmit timer."),
        ("ictxatc", 0x4110, 0, "Absolute transmit timer."), ("ictxqec", 0x4118, 0, "Transmit queue empty."),
        ("ictxqmtc", 0x411C, 0, "Transmit queue low."), ("icrxdmtc", 0x4120, 0, "Receive queue low."),
        ("icrxoc", 0x4124, 0, "Receiver overruns."),
    ):  # fmt: skip
        vars()[_name] = Statistic(bar0, _at, counted=bool(_counted), doc=_doc)
    del _name, _at, _count, _step, _doc, _index, _counted

    state: State
    link: bool
    interrupts: Interrupts
    nvm_at: int
    """Where in the page the words of the NVM are."""

    def declare(self, places: dict[int, tuple[int, int]]) -> None:
        """Have a store to a tail ring its doorbell."""
        page = self.machine.page
        page.doorbell_bar, page.doorbell_offset, page.doorbell_stride = 0, RX_RING + TAIL, TX_RING - RX_RING
        super().declare(places)

    def kinds(self, index: int, bar: Bar) -> bytearray:
        """Leave what is between the doorbells what it is."""
        return self.registers.kinds(bar) if index == self.bar0.index else super().kinds(index, bar)

    def capabilities(self) -> dict[int, bytes]:
        """Add that of a PCI Express 1.1 endpoint (PCIe 1.1 §7.8): one lane of 2.5 GT/s, payloads of 128 bytes."""
        express = (
            bytes([_CAP_EXPRESS, 0]) + (0x0001).to_bytes(2, "little")  # version 1, endpoint
            + (0x8000).to_bytes(4, "little")  # role-based error reporting
            + _DEVICE_CONTROL.to_bytes(2, "little") + bytes(2)
            + (0x0000_0411).to_bytes(4, "little")  # one lane, 2.5 GT/s, L0s
            + bytes(2) + (0x0011).to_bytes(2, "little")
        )  # fmt: skip
        return super().capabilities() | {EXPRESS_CAP: express}

    def nvm(self, word: int) -> int:
        """Return a word of the NVM."""
        return self.shared.load(self.nvm_at + 2 * (word % NVM_WORDS), 2)
