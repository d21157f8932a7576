/* Attacks with well-formed chains that are no well-formed virtio-blk requests (virtio 1.2 §5.2.6), and odd but legal
 * ones. None writes to the disk: writes go past its end only. */
#include "hostile.h"

#define VIRTIO_BLK_T_DISCARD 11

static u64 data(void) { return (u64)area->data; }

/* Header, data, status with a type of our choice. */
static void request(struct disk *d, u32 type, u64 sector, u32 len, u16 data_flags)
{
    put_read(d, sector, data(), len);
    area->header.type = type;
    d->queues[0].desc[1].flags = DESC_NEXT | data_flags;
    offer(d, 0);
}
static void type_unknown(struct disk *d) { request(d, 0xdeadbeef, 0, SECTOR, DESC_WRITE); }
static void type_legacy_scsi(struct disk *d) { request(d, 2, 0, SECTOR, DESC_WRITE); }
static void type_discard(struct disk *d) { request(d, VIRTIO_BLK_T_DISCARD, d->capacity, 15, 0); }
static void type_id_long(struct disk *d) { request(d, VIRTIO_BLK_T_GET_ID, 0, 512, DESC_WRITE); }
static void type_id_short(struct disk *d) { request(d, VIRTIO_BLK_T_GET_ID, 0, 1, DESC_WRITE); }
static void flush_with_data(struct disk *d) { request(d, VIRTIO_BLK_T_FLUSH, 7, SECTOR, DESC_WRITE); }
static void read_into_readable(struct disk *d) { request(d, VIRTIO_BLK_T_IN, 0, SECTOR, 0); }
static void write_from_writable(struct disk *d) { request(d, VIRTIO_BLK_T_OUT, d->capacity, SECTOR, DESC_WRITE); }
static void write_past_end(struct disk *d) { request(d, VIRTIO_BLK_T_OUT, d->capacity, SECTOR, 0); }
static void read_past_end(struct disk *d) { request(d, VIRTIO_BLK_T_IN, d->capacity, SECTOR, DESC_WRITE); }
static void read_over_end(struct disk *d) { request(d, VIRTIO_BLK_T_IN, d->capacity - 1, 2 * SECTOR, DESC_WRITE); }
static void sector_max(struct disk *d) { request(d, VIRTIO_BLK_T_IN, ~0UL, SECTOR, DESC_WRITE); }
static void sector_overflows(struct disk *d) { request(d, VIRTIO_BLK_T_IN, 1UL << 55, SECTOR, DESC_WRITE); }
static void sector_sum_overflows(struct disk *d) { request(d, VIRTIO_BLK_T_IN, ~0UL - 1, 2 * SECTOR, DESC_WRITE); }
static void length_100(struct disk *d) { request(d, VIRTIO_BLK_T_IN, 0, 100, DESC_WRITE); }
static void length_513(struct disk *d) { request(d, VIRTIO_BLK_T_IN, 0, 513, DESC_WRITE); }

/* Structure. */
static void header_short(struct disk *d)
{
    put_read(d, 0, data(), SECTOR);
    d->queues[0].desc[0].len = 8;
    offer(d, 0);
}
static void header_only(struct disk *d)
{
    put_header(VIRTIO_BLK_T_IN, 0);
    put_desc(d, 0, (u64)&area->header, 16, 0, 0);
    offer(d, 0);
}
static void status_only(struct disk *d)
{
    put_desc(d, 0, (u64)&area->status, 1, DESC_WRITE, 0);
    offer(d, 0);
}
static void header_writable(struct disk *d)
{
    put_read(d, 0, data(), SECTOR);
    d->queues[0].desc[0].flags = DESC_NEXT | DESC_WRITE;
    offer(d, 0);
}
static void status_readable(struct disk *d)
{
    put_read(d, 0, data(), SECTOR);
    d->queues[0].desc[2].flags = 0;
    offer(d, 0);
}
static void status_empty(struct disk *d)
{
    put_read(d, 0, data(), SECTOR);
    d->queues[0].desc[2].len = 0;
    offer(d, 0);
}
static void readable_after_writable(struct disk *d)
{
    put_read(d, 0, data(), SECTOR);
    put_desc(d, 2, data() + 512, 16, DESC_NEXT, 3);
    put_desc(d, 3, (u64)&area->status, 1, DESC_WRITE, 0);
    offer(d, 0);
}

/* Odd but legal: the device may assume nothing about how a request is split (§2.7.4.1). */
static void header_split(struct disk *d)
{
    put_read(d, 0, data(), SECTOR);
    put_desc(d, 0, (u64)&area->header, 3, DESC_NEXT, 5);
    put_desc(d, 5, (u64)&area->header + 3, 9, DESC_NEXT, 6);
    put_desc(d, 6, (u64)&area->header + 12, 4, DESC_NEXT, 1);
    offer(d, 0);
}
static void data_split_odd(struct disk *d)
{
    put_read(d, 0, data(), 3);
    put_desc(d, 1, data(), 3, DESC_NEXT | DESC_WRITE, 4);
    put_desc(d, 4, data() + 3, 509, DESC_NEXT | DESC_WRITE, 2);
    offer(d, 0);
}
static void data_and_status_joined(struct disk *d)
{
    put_header(VIRTIO_BLK_T_IN, 0);
    put_desc(d, 0, (u64)&area->header, 16, DESC_NEXT, 1);
    put_desc(d, 1, (u64)area->joined, SECTOR + 1, DESC_WRITE, 0); /* status is the byte after joined */
    offer(d, 0);
}
static void data_misaligned(struct disk *d)
{
    put_read(d, 0, data() + 7, SECTOR);
    offer(d, 0);
}

static const struct attack attacks[] = {
    {"type-unknown", type_unknown, MUST_FAIL},
    {"type-legacy-scsi", type_legacy_scsi, MUST_FAIL},
    {"type-discard", type_discard, MUST_FAIL},
    {"type-id-long", type_id_long, ANYTHING},
    {"type-id-short", type_id_short, ANYTHING},
    {"flush-with-data", flush_with_data, ANYTHING},
    {"read-into-readable", read_into_readable, ANYTHING},
    {"write-from-writable", write_from_writable, ANYTHING},
    {"write-past-end", write_past_end, MUST_FAIL},
    {"read-past-end", read_past_end, MUST_FAIL},
    {"read-over-end", read_over_end, MUST_FAIL},
    {"sector-max", sector_max, MUST_FAIL},
    {"sector-overflows", sector_overflows, MUST_FAIL},
    {"sector-sum-overflows", sector_sum_overflows, MUST_FAIL},
    {"length-100", length_100, ANYTHING},
    {"length-513", length_513, ANYTHING},
    {"header-short", header_short, MUST_FAIL},
    {"header-only", header_only, ANYTHING},
    {"status-only", status_only, ANYTHING},
    {"header-writable", header_writable, MUST_FAIL},
    {"status-readable", status_readable, ANYTHING},
    {"status-empty", status_empty, ANYTHING},
    {"readable-after-writable", readable_after_writable, ANYTHING},
    {"header-split", header_split, MUST_WORK},
    {"data-split-odd", data_split_odd, MUST_WORK},
    {"data-and-status-joined", data_and_status_joined, MUST_WORK},
    {"data-misaligned", data_misaligned, MUST_WORK},
};
const struct attack_list request_attacks = {attacks, ARRAY_SIZE(attacks)};
