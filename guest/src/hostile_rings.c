/* Attacks on rings and descriptors (virtio 1.2 §2.7). */
#include "fdt.h"
#include "heap.h"
#include "hostile.h"
#include "text.h"

static void put_entry(unsigned i, u64 addr, u32 len, u16 flags, u16 next)
{
    area->table[i] = (struct vring_desc){addr, len, flags, next};
}

static u64 data(void) { return (u64)area->data; }

/* Heads and links. */
static void head_is_size(struct disk *d) { offer(d, d->queues[0].size); }
static void head_is_ffff(struct disk *d) { offer(d, 0xffff); }
static void next_is_size(struct disk *d)
{
    put_read(d, 0, data(), SECTOR);
    put_desc(d, 1, data(), SECTOR, DESC_NEXT | DESC_WRITE, d->queues[0].size);
    offer(d, 0);
}
static void next_is_self(struct disk *d)
{
    put_read(d, 0, data(), SECTOR);
    put_desc(d, 1, data(), SECTOR, DESC_NEXT | DESC_WRITE, 1);
    offer(d, 0);
}
static void next_is_head(struct disk *d)
{
    put_read(d, 0, data(), SECTOR);
    put_desc(d, 2, (u64)&area->status, 1, DESC_NEXT | DESC_WRITE, 0);
    offer(d, 0);
}
static void head_twice(struct disk *d)
{
    put_read(d, 0, data(), SECTOR);
    d->queues[0].avail->ring[0] = 0;
    d->queues[0].avail->idx = 1;
    offer(d, 0);
}
static void whole_queue_chain(struct disk *d)
{
    u16 last = d->queues[0].size - 1;
    put_read(d, 0, data(), 4);
    for (u16 i = 1; i < last; i++)
        put_desc(d, i, data() + 4UL * i, 4, DESC_NEXT | DESC_WRITE, i + 1);
    put_desc(d, last, (u64)&area->status, 1, DESC_WRITE, 0);
    offer(d, 0);
}
static void all_flags(struct disk *d)
{
    put_desc(d, 0, data(), 64, 0xffff, 0);
    offer(d, 0);
}

/* Indices. */
static void idx_jumps_size_plus_1(struct disk *d)
{
    put_read(d, 0, data(), SECTOR);
    d->queues[0].avail->idx = d->queues[0].size + 1;
    notify(d);
}
static void idx_jumps_half(struct disk *d)
{
    put_read(d, 0, data(), SECTOR);
    d->queues[0].avail->idx = 0x8000;
    notify(d);
}
static void idx_goes_back(struct disk *d)
{
    put_read(d, 0, data(), SECTOR);
    offer(d, 0);
    d->queues[0].avail->idx = 0xffff;
    notify(d);
}
static void avail_flags(struct disk *d)
{
    d->queues[0].avail->flags = 0xffff;
    put_read(d, 0, data(), SECTOR);
    offer(d, 0);
}
static void used_scribbled(struct disk *d)
{
    memset((void *)d->queues[0].used, 0xff, 6 + 8UL * d->queues[0].size);
    d->queues[0].used->idx = 0; /* by which the outcome is seen */
    put_read(d, 0, data(), SECTOR);
    offer(d, 0);
}

/* Addresses and lengths; the sector is the last one, so that a device that trusts a length has nothing to copy. */
static void read_to(struct disk *d, u64 addr, u32 len)
{
    put_read(d, d->capacity - 1, addr, len);
    offer(d, 0);
}
static void addr_zero(struct disk *d) { read_to(d, 0, SECTOR); }
static void addr_rom(struct disk *d) { read_to(d, 0x1000, SECTOR); }
static void addr_hole(struct disk *d) { read_to(d, 0x60000000, SECTOR); }
static void addr_top(struct disk *d) { read_to(d, 0xfffffffffffff000UL, SECTOR); }
static void addr_wraps(struct disk *d) { read_to(d, 0xffffffffffffff00UL, 4096); }
static void addr_past_ram(struct disk *d) { read_to(d, machine.memory_base + machine.memory_size, SECTOR); }
static void addr_over_ram_end(struct disk *d) { read_to(d, machine.memory_base + machine.memory_size - 256, SECTOR); }
static void len_zero(struct disk *d) { read_to(d, data(), 0); }
static void len_max(struct disk *d) { read_to(d, data(), 0xffffffff); }
static void len_max_sectors(struct disk *d) { read_to(d, data(), 0xfffffe00); }
static void header_outside(struct disk *d)
{
    put_read(d, 0, data(), SECTOR);
    put_desc(d, 0, 0xffffffff00000000UL, 16, DESC_NEXT, 1);
    offer(d, 0);
}
static void status_outside(struct disk *d)
{
    put_read(d, 0, data(), SECTOR);
    put_desc(d, 2, machine.memory_base + machine.memory_size, 1, DESC_WRITE, 0);
    offer(d, 0);
}
static void total_over_4g(struct disk *d)
{
    put_read(d, d->capacity - 1, data(), 0x80000000);
    put_desc(d, 2, data(), 0x80000000, DESC_NEXT | DESC_WRITE, 3);
    put_desc(d, 3, data(), 0x80000200, DESC_NEXT | DESC_WRITE, 4);
    put_desc(d, 4, (u64)&area->status, 1, DESC_WRITE, 0);
    offer(d, 0);
}

/* Indirect tables (§2.7.5.3). */
static void offer_table(struct disk *d, u64 addr, u32 len, u16 flags)
{
    put_header(VIRTIO_BLK_T_IN, 0);
    put_entry(0, (u64)&area->header, 16, DESC_NEXT, 1);
    put_entry(1, data(), SECTOR, DESC_NEXT | DESC_WRITE, 2);
    put_entry(2, (u64)&area->status, 1, DESC_WRITE, 0);
    put_desc(d, 0, addr, len, flags, 1);
    put_desc(d, 1, data(), SECTOR, DESC_WRITE, 0);
}
static void offer_changed_table(struct disk *d, unsigned entry, u16 flags, u16 next)
{
    offer_table(d, (u64)area->table, 48, DESC_INDIRECT);
    area->table[entry].flags = flags;
    area->table[entry].next = next;
    offer(d, 0);
}
static void table_len_odd(struct disk *d) { offer_table(d, (u64)area->table, 49, DESC_INDIRECT); offer(d, 0); }
static void table_len_zero(struct disk *d) { offer_table(d, (u64)area->table, 0, DESC_INDIRECT); offer(d, 0); }
static void table_len_max(struct disk *d) { offer_table(d, (u64)area->table, 0xfffffff0, DESC_INDIRECT); offer(d, 0); }
static void table_outside(struct disk *d) { offer_table(d, 0xfffffffffffffff0UL, 48, DESC_INDIRECT); offer(d, 0); }
static void table_and_next(struct disk *d)
{
    offer_table(d, (u64)area->table, 48, DESC_INDIRECT | DESC_NEXT);
    offer(d, 0);
}
static void table_nested(struct disk *d)
{
    offer_table(d, (u64)area->table, 48, DESC_INDIRECT);
    put_entry(1, (u64)area->table, 48, DESC_INDIRECT, 0);
    offer(d, 0);
}
static void table_next_outside(struct disk *d) { offer_changed_table(d, 1, DESC_NEXT | DESC_WRITE, 3); }
static void table_loop(struct disk *d) { offer_changed_table(d, 2, DESC_NEXT | DESC_WRITE, 1); }
static void table_4096_entries(struct disk *d)
{
    struct vring_desc *table = (struct vring_desc *)heap_scratch();
    put_header(VIRTIO_BLK_T_IN, 0);
    for (u16 i = 0; i < 4096; i++)
        table[i] = (struct vring_desc){data(), 1, DESC_NEXT | (i ? DESC_WRITE : 0), i + 1};
    table[4095].flags = DESC_WRITE;
    put_desc(d, 0, (u64)table, 4096 * 16, DESC_INDIRECT, 0);
    offer(d, 0);
}
static void table_plain(struct disk *d) { offer_table(d, (u64)area->table, 48, DESC_INDIRECT); offer(d, 0); }

static const struct attack attacks[] = {
    {"head-is-size", head_is_size, ANYTHING},         {"head-is-ffff", head_is_ffff, ANYTHING},
    {"next-is-size", next_is_size, ANYTHING},         {"next-is-self", next_is_self, ANYTHING},
    {"next-is-head", next_is_head, ANYTHING},         {"head-twice", head_twice, ANYTHING},
    {"whole-queue-chain", whole_queue_chain, ANYTHING}, {"all-flags", all_flags, ANYTHING},
    {"idx-jumps-size+1", idx_jumps_size_plus_1, ANYTHING}, {"idx-jumps-8000", idx_jumps_half, ANYTHING},
    {"idx-goes-back", idx_goes_back, ANYTHING},       {"avail-flags", avail_flags, MUST_WORK},
    {"used-scribbled", used_scribbled, ANYTHING},     {"addr-zero", addr_zero, ANYTHING},
    {"addr-rom", addr_rom, ANYTHING},                 {"addr-hole", addr_hole, ANYTHING},
    {"addr-top", addr_top, ANYTHING},                {"addr-wraps", addr_wraps, MUST_FAIL},
    {"addr-past-ram", addr_past_ram, ANYTHING},       {"addr-over-ram-end", addr_over_ram_end, ANYTHING},
    {"len-zero", len_zero, ANYTHING},                 {"len-max", len_max, MUST_FAIL},
    {"len-max-sectors", len_max_sectors, MUST_FAIL},  {"header-outside", header_outside, ANYTHING},
    {"status-outside", status_outside, ANYTHING},     {"total-over-4g", total_over_4g, MUST_FAIL},
    {"table-plain", table_plain, MUST_WORK},          {"table-len-odd", table_len_odd, ANYTHING},
    {"table-len-zero", table_len_zero, ANYTHING},     {"table-len-max", table_len_max, ANYTHING},
    {"table-outside", table_outside, ANYTHING},       {"table-and-next", table_and_next, ANYTHING},
    {"table-nested", table_nested, ANYTHING},         {"table-next-outside", table_next_outside, ANYTHING},
    {"table-loop", table_loop, ANYTHING},             {"table-4096-entries", table_4096_entries, ANYTHING},
};
const struct attack_list ring_attacks = {attacks, ARRAY_SIZE(attacks)};
