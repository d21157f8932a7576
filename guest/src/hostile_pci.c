/* `h [SEED] [COUNT]`: random accesses of every size and alignment to configuration space and BARs of all functions,
 * while BARs move and decoding goes on and off. Bus mastering is off throughout, so no device may touch memory. At the
 * end every function is initialised again and the first disk must read as before. */
#include "blk.h"
#include "commands.h"
#include "console.h"
#include "fdt.h"
#include "heap.h"
#include "pci.h"
#include "random.h"
#include "text.h"
#include "timer.h"
#include "trap.h"

#define PCI_CAP_POWER 0x01

static u64 now_at[MAX_FUNCTIONS][6]; /* where each BAR was last put */
static struct {
    u64 seed, index, config_reads, config_writes, bar_reads, bar_writes, moves, commands, faults, ones;
} run;

static u64 draw(void) { return random_at(run.seed, run.index++); }

static void access(u64 address, unsigned size, bool is_write, u64 value)
{
    u64 seen = value;
    if (!(is_write ? guarded_write(address, size, value) : guarded_read(address, size, &seen)))
        run.faults++;
    else if (!is_write && seen == ~0UL >> (64 - 8 * size))
        run.ones++;
}

/* Offsets favour small ones and the ends; a quarter is misaligned. */
static u64 draw_offset(u64 limit, unsigned size)
{
    u64 r = draw(), offset = r >> 8 & 1 ? (r >> 16) % MIN(limit, 256UL) : (r >> 16) % limit;
    return (r & 3) == 0 ? offset : offset & ~(u64)(size - 1);
}

static void hit_config(const struct pci_function *f)
{
    u64 r = draw(), value = draw();
    unsigned size = 1U << (r & 3);
    bool is_write = (r & 4) && !(f->header_type & 0x7f); /* a bridge is only read: nothing here would repair it */
    u64 offset = draw_offset(r & 8 ? 256 : 4096, size);
    if (offset <= PCI_COMMAND && offset + size > PCI_COMMAND) /* never let it master the bus */
        value &= ~((u64)PCI_COMMAND_MASTER << 8 * (PCI_COMMAND - offset));
    run.config_writes += is_write;
    run.config_reads += !is_write;
    access(pci_config_address(f->bdf, 0) + offset, size, is_write, value);
}

static void hit_bar(const struct pci_function *f, unsigned i)
{
    u64 r = draw();
    unsigned size = 1U << (r & 3);
    bool is_write = r & 4;
    run.bar_writes += is_write;
    run.bar_reads += !is_write;
    access(now_at[f - pci_functions][i] + draw_offset(f->bars[i].size, size), size, is_write, draw());
}

static void move_bar(const struct pci_function *f, unsigned i)
{
    const struct bar *b = &f->bars[i];
    const struct window *w = b->is_io                         ? &machine.pci.io
                             : b->address < machine.pci.mem32.cpu + machine.pci.mem32.size ? &machine.pci.mem32
                                                                                           : &machine.pci.mem64;
    u64 places = w->size / b->size;
    if (!places)
        return;
    u64 to = w->cpu + draw() % MIN(places, 4096UL) * b->size;
    pci_write_bar(f, i, to);
    now_at[f - pci_functions][i] = to;
    run.moves++;
}

static void repair(const struct pci_function *f)
{
    u32 power = pci_find_capability(f, PCI_CAP_POWER, 0);
    if (power)
        pci_write(f, power + 4, 2, 0); /* D0 */
    pci_reinit(f);
    struct virtio v;
    if (virtio_device_type(f) && virtio_open(&v, f))
        virtio_reset(&v);
}

static void step(void)
{
    u64 r = draw();
    const struct pci_function *f = &pci_functions[(r >> 32) % pci_count];
    unsigned bars[6], bar_count = 0;
    for (unsigned i = 0; i < 6; i++)
        if (f->bars[i].address)
            bars[bar_count++] = i;
    bool has_bar = bar_count != 0;
    unsigned bar = has_bar ? bars[(r >> 8 & 0xff) % bar_count] : 0;
    switch (r & 15) {
    case 0:
        if (has_bar)
            move_bar(f, bar);
        break;
    case 1: /* decoding on or off, everything else in the command register at random */
        if (!(f->header_type & 0x7f)) {
            pci_write(f, PCI_COMMAND, 2, (u32)draw() & ~(u32)PCI_COMMAND_MASTER);
            run.commands++;
        }
        break;
    case 2 ... 6: hit_config(f); break;
    default:
        if (has_bar)
            hit_bar(f, bar);
        else
            hit_config(f);
    }
    if ((run.index & 31) == 0 && !(f->header_type & 0x7f)) /* else most BARs would soon be off */
        pci_write(f, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
}

void command_hostile_pci(const char *args)
{
    u64 count = 2000;
    memset(&run, 0, sizeof run);
    run.seed = 1;
    text_number(&args, &run.seed);
    text_number(&args, &count);
    if (!pci_count) {
        print("hostile: error=no-functions\n");
        return;
    }
    u32 sum = 0;
    bool has_disk = disk_count && disks[0]->capacity;
    if (has_disk) {
        disk_transfer(disks[0], 0, VIRTIO_BLK_T_IN, 0, heap_scratch(), SECTOR);
        sum = checksum(heap_scratch(), SECTOR);
    }
    for (unsigned i = 0; i < pci_count; i++) {
        for (unsigned b = 0; b < 6; b++)
            now_at[i][b] = pci_functions[i].bars[b].address;
        if (!(pci_functions[i].header_type & 0x7f))
            pci_write(&pci_functions[i], PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_IO);
    }
    u64 start = time_now();
    for (u64 i = 0; i < count; i++)
        step();
    u64 us = time_to_ns(time_now() - start) / 1000;
    for (unsigned i = 0; i < pci_count; i++)
        repair(&pci_functions[i]);
    unsigned failures = 0;
    for (unsigned i = 0; i < pci_count; i++)
        failures += pci_read(&pci_functions[i], PCI_VENDOR_ID, 2) != pci_functions[i].vendor;
    for (unsigned i = 0; i < disk_count; i++)
        failures += !disk_init(disks[i]);
    if (has_disk) {
        u8 status = disk_transfer(disks[0], 0, VIRTIO_BLK_T_IN, 0, heap_scratch(), SECTOR);
        failures += status != VIRTIO_BLK_S_OK || checksum(heap_scratch(), SECTOR) != sum;
    }
    print("hostile: %s kind=pci seed=%lu count=%lu config_reads=%lu config_writes=%lu bar_reads=%lu bar_writes=%lu",
          failures ? "failed" : "ok", run.seed, count, run.config_reads, run.config_writes, run.bar_reads,
          run.bar_writes);
    print(" moves=%lu commands=%lu faults=%lu all_ones=%lu us=%lu failures=%u\n", run.moves, run.commands, run.faults,
          run.ones, us, failures);
}
