"""Config space and features of the block device (virtio 1.2 §5.2.3, §5.2.4): what it says about itself."""

from __future__ import annotations

from devproc.registers import Register
from devproc.virtio import VirtioDevice
from devproc.virtio_blk.backing import Backing
from devproc.virtio_blk.config import Config
from devproc.virtio_blk.spec import SECTOR, BlkFeature, Header, Trailer
from devproc.virtio_spec import Feature

RANGE_MAX = 1 << 22  # sectors of one discard or write-zeroes range: 2 GiB
DISCARDS_MAX = 32  # ranges in one discard; a write-zeroes has one, because the host may have to write it
_PHYSICAL = 4096  # what disks and file systems work in


class BlockConfigSpace(VirtioDevice):
    """A disk as its driver finds it, without its requests."""

    device_type = 2
    bears = BlkFeature.SIZE_MAX.value  # a segment may have any size, also one that a driver thinks the largest
    class_code = 0x01_0000
    config_size = 60
    request_header = Header
    request_answer = Trailer

    _config = VirtioDevice.device_config
    capacity = Register(_config, 0x00, width=8, access="r", doc="Capacity in sectors of 512 bytes.")
    seg_max = Register(_config, 0x0C, access="r", doc="Data buffers in one request.")
    blk_size = Register(_config, 0x14, access="r", doc="Block size.")
    physical_block_exp = Register(_config, 0x18, width=1, access="r", doc="log2(physical block / block).")
    alignment_offset = Register(_config, 0x19, width=1, access="r", doc="Offset of the first aligned block.")
    min_io_size = Register(_config, 0x1A, width=2, access="r", doc="Smallest good transfer in blocks.")
    opt_io_size = Register(_config, 0x1C, access="r", doc="Best transfer in blocks.")
    writeback = Register(_config, 0x20, width=1, mask=1, store=False, doc="1: writes need a flush to be durable.")
    blk_num_queues = Register(_config, 0x22, width=2, access="r", doc="Request queues.")
    max_discard_sectors = Register(_config, 0x24, access="r", doc="Largest discard range.")
    max_discard_seg = Register(_config, 0x28, access="r", doc="Ranges in one discard.")
    discard_sector_alignment = Register(_config, 0x2C, access="r", doc="Alignment of a discard.")
    max_write_zeroes_sectors = Register(_config, 0x30, access="r", doc="Largest write-zeroes range.")
    max_write_zeroes_seg = Register(_config, 0x34, access="r", doc="Ranges in one write-zeroes.")
    write_zeroes_may_unmap = Register(_config, 0x38, width=1, access="r", doc="Write-zeroes may unmap.")

    def __init__(self, config: Config, image: Backing) -> None:
        super().__init__(queue_count=config.queues, queue_size=config.queue_size)
        self.config = config
        self.image = image
        self.sectors = 0
        """Capacity, as the driver sees it."""
        self.features = BlkFeature.SEG_MAX | BlkFeature.BLK_SIZE | BlkFeature.TOPOLOGY | BlkFeature.FLUSH
        if config.in_order:
            self.features |= Feature.IN_ORDER
        if config.queues > 1:
            self.features |= BlkFeature.MQ
        if config.readonly:
            self.features |= BlkFeature.RO
        else:
            self.features |= BlkFeature.CONFIG_WCE | BlkFeature.WRITE_ZEROES
            if self.unmaps:
                self.features |= BlkFeature.DISCARD

        self.features &= ~config.without
        self.withheld = config.without

    @property
    def unmaps(self) -> bool:
        """Whether space goes back to the host."""
        return self.config.discard == "unmap"

    def describe(self) -> None:
        """Fill the config space."""
        self.measure()
        self.seg_max = self.queue_max - 2
        self.blk_size = self.config.block_size
        self.physical_block_exp = (_PHYSICAL // self.config.block_size).bit_length() - 1
        self.opt_io_size = 0
        self.min_io_size = 1
        self.blk_num_queues = self.queue_count
        discards, zeroes = bool(self.features & BlkFeature.DISCARD), bool(self.features & BlkFeature.WRITE_ZEROES)
        self.max_discard_sectors = RANGE_MAX * discards
        self.max_discard_seg = DISCARDS_MAX * discards
        self.discard_sector_alignment = _PHYSICAL // SECTOR * discards
        self.max_write_zeroes_sectors = RANGE_MAX * zeroes
        self.max_write_zeroes_seg = int(zeroes)
        self.write_zeroes_may_unmap = int(zeroes and self.unmaps)

    def measure(self) -> None:
        """Show how large the image is; requests are held against that."""
        self.capacity = self.sectors = self.image.sectors

    @writeback.on_write
    def set_writeback(self, value: int) -> None:
        """Change the cache mode, as the driver asks for."""
        self.writeback = value
