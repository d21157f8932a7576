/* PCI configuration (PCI Local Bus 3.0 ch. 6; ECAM: PCI Express 5.0 §7.2.2; MSI-X: §7.7.2). */
#include "pci.h"
#include "console.h"
#include "fdt.h"
#include "irq.h"
#include "text.h"

struct pci_function pci_functions[MAX_FUNCTIONS];
unsigned pci_count;
static u64 next_io, next_mem32, next_mem64; /* CPU addresses not yet given out */

u64 pci_config_address(u16 bdf, u32 offset) { return machine.pci.ecam + ((u64)bdf << 12) + offset; }

u32 pci_read(const struct pci_function *f, u32 offset, unsigned size)
{
    u64 a = pci_config_address(f->bdf, offset);
    return size == 1 ? read8(a) : size == 2 ? read16(a) : read32(a);
}

void pci_write(const struct pci_function *f, u32 offset, unsigned size, u32 value)
{
    u64 a = pci_config_address(f->bdf, offset);
    if (size == 1)
        write8(a, (u8)value);
    else if (size == 2)
        write16(a, (u16)value);
    else
        write32(a, value);
}

u32 pci_find_capability(const struct pci_function *f, u8 id, u32 previous)
{
    if (!(pci_read(f, PCI_STATUS, 2) & 0x10))
        return 0;
    u32 at = previous ? previous + 1 : PCI_CAPABILITIES;
    for (unsigned limit = 0; limit < 48; limit++) { /* a list that loops must not hang us */
        at = pci_read(f, at, 1) & 0xfc;
        if (at < 0x40)
            return 0;
        if (pci_read(f, at, 1) == id)
            return at;
        at++;
    }
    return 0;
}

/* Write ones, read the mask back (PCI 3.0 §6.2.5.1). Returns how many registers the BAR takes. */
static unsigned size_bar(struct pci_function *f, unsigned i)
{
    u32 at = PCI_BAR0 + 4 * i, old = pci_read(f, at, 4);
    struct bar *b = &f->bars[i];
    pci_write(f, at, 4, 0xffffffff);
    u32 mask = pci_read(f, at, 4);
    pci_write(f, at, 4, old);
    if (mask == 0 || mask == 0xffffffff)
        return 1;
    b->is_io = mask & 1;
    b->is_64 = (mask & 7) == 4;
    b->is_prefetchable = !b->is_io && (mask & 8);
    u64 bits = b->is_io ? 0xffffffffffff0000UL | (mask & 0xfffc) : 0xffffffff00000000UL | (mask & ~0xfU);
    if (b->is_64) {
        u32 old_high = pci_read(f, at + 4, 4);
        pci_write(f, at + 4, 4, 0xffffffff);
        bits = (u64)pci_read(f, at + 4, 4) << 32 | (mask & ~0xfU);
        pci_write(f, at + 4, 4, old_high);
    }
    b->size = -bits;
    return b->is_64 ? 2 : 1;
}

static u64 take(u64 *next, const struct window *w, u64 size)
{
    u64 step = MAX(size, (u64)4096), at = ALIGN_UP(*next, step);
    if (!w->size || at + size > w->cpu + w->size)
        return 0;
    *next = at + step;
    return at;
}

static bool place_bar(struct bar *b)
{
    if (b->is_io)
        b->address = take(&next_io, &machine.pci.io, b->size);
    else if (b->is_64)
        b->address = take(&next_mem64, &machine.pci.mem64, b->size);
    if (!b->is_io && !b->address)
        b->address = take(&next_mem32, &machine.pci.mem32, b->size);
    return b->address != 0;
}

static u64 pci_address(const struct bar *b, u64 cpu)
{
    const struct window *w = b->is_io ? &machine.pci.io
                             : cpu - machine.pci.mem32.cpu < machine.pci.mem32.size ? &machine.pci.mem32
                                                                                    : &machine.pci.mem64;
    return cpu - w->cpu + w->pci;
}

void pci_write_bar(const struct pci_function *f, unsigned i, u64 cpu_address)
{
    u16 command = (u16)pci_read(f, PCI_COMMAND, 2);
    u64 value = pci_address(&f->bars[i], cpu_address);
    pci_write(f, PCI_COMMAND, 2, command & ~(u32)(PCI_COMMAND_IO | PCI_COMMAND_MEMORY));
    pci_write(f, PCI_BAR0 + 4 * i, 4, (u32)value);
    if (f->bars[i].is_64)
        pci_write(f, PCI_BAR0 + 4 * i + 4, 4, (u32)(value >> 32));
    pci_write(f, PCI_COMMAND, 2, command);
}

void pci_reinit(const struct pci_function *f)
{
    u32 command = PCI_COMMAND_MASTER | PCI_COMMAND_INTX_OFF;
    if (f->header_type & 0x7f)
        return;
    pci_write(f, PCI_COMMAND, 2, 0);
    for (unsigned i = 0; i < 6; i++)
        if (f->bars[i].address) {
            pci_write_bar(f, i, f->bars[i].address);
            command |= f->bars[i].is_io ? PCI_COMMAND_IO : PCI_COMMAND_MEMORY;
        }
    if (f->msix_cap)
        pci_write(f, f->msix_cap + 2, 2, 0);
    pci_write(f, PCI_COMMAND, 2, command);
}

static unsigned probe_function(u16 bdf)
{
    struct pci_function *f = &pci_functions[pci_count];
    unsigned failures = 0;
    f->bdf = bdf;
    u32 id = pci_read(f, PCI_VENDOR_ID, 4);
    if ((id & 0xffff) == 0xffff || pci_count == MAX_FUNCTIONS - 1)
        return 0;
    pci_count++;
    f->vendor = (u16)id;
    f->device = (u16)(id >> 16);
    f->class_code = pci_read(f, PCI_CLASS_REVISION, 4) >> 8;
    f->header_type = (u8)pci_read(f, PCI_HEADER_TYPE, 1);
    if (f->header_type & 0x7f)
        return 0; /* a bridge: what lies behind it stays as the firmware left it */
    f->subsystem = (u16)pci_read(f, PCI_SUBSYSTEM_ID, 2);
    pci_write(f, PCI_COMMAND, 2, 0);
    for (unsigned i = 0; i < 6;)
        i += size_bar(f, i);
    for (unsigned i = 0; i < 6; i++)
        if (f->bars[i].size && !place_bar(&f->bars[i]))
            failures++;
    f->msix_cap = (u16)pci_find_capability(f, PCI_CAP_MSIX, 0);
    if (f->msix_cap) {
        u32 table = pci_read(f, f->msix_cap + 4, 4), bir = table & 7;
        if (bir < 6 && f->bars[bir].address) {
            f->msix_entries = (pci_read(f, f->msix_cap + 2, 2) & 0x7ff) + 1;
            f->msix_table = f->bars[bir].address + (table & ~7U);
        }
    }
    pci_reinit(f);
    return failures;
}

unsigned pci_enumerate(void)
{
    unsigned failures = 0;
    next_io = machine.pci.io.cpu + 0x1000; /* PCI I/O address 0 means unassigned to some devices */
    next_mem32 = machine.pci.mem32.cpu;
    next_mem64 = machine.pci.mem64.cpu;
    if (!machine.pci.ecam)
        return 0;
    for (u16 device = 0; device < 32; device++) {
        u16 bdf = (u16)(machine.pci.first_bus << 8 | device << 3);
        if (read16(pci_config_address(bdf, PCI_VENDOR_ID)) == 0xffff)
            continue;
        bool multi = read8(pci_config_address(bdf, PCI_HEADER_TYPE)) & 0x80;
        for (u16 function = 0; function < (multi ? 8 : 1); function++)
            failures += probe_function(bdf | function);
    }
    return failures;
}

void pci_msix_route(const struct pci_function *f, u32 entry, u32 eiid)
{
    u64 at = f->msix_table + 16UL * entry;
    write32(at + 12, 1);
    write32(at, (u32)irq_msi_address());
    write32(at + 4, (u32)(irq_msi_address() >> 32));
    write32(at + 8, eiid);
    write32(at + 12, 0);
}

void pci_msix_enable(const struct pci_function *f, bool enable)
{
    if (f->msix_cap)
        pci_write(f, f->msix_cap + 2, 2, enable ? PCI_MSIX_ENABLE : 0);
}
