/* How PCI functions are named and printed. */
#include "pci.h"
#include "console.h"
#include "text.h"
#include "virtio.h"

static const struct {
    u16 vendor, device;
    const char *name;
} devices[] = {
    {0x1b36, 0x0008, "pcie-host-bridge"}, {0x1b36, 0x000c, "pcie-root-port"}, {0x1af4, 0x1110, "ivshmem"},
    {0x1234, 0x11e8, "edu"},              {0x1b36, 0x0005, "pci-testdev"},    {0x8086, 0x100e, "e1000"},
};

static const struct {
    u32 class_code; /* compared without the programming interface */
    const char *name;
} classes[] = {
    {0x0100, "scsi-storage"}, {0x0101, "ide-storage"},    {0x0108, "nvme"},    {0x0180, "storage"},
    {0x0200, "ethernet"},     {0x0280, "network"},        {0x0300, "vga"},     {0x0380, "display"},
    {0x0401, "audio"},        {0x0500, "memory"},         {0x0580, "memory"},  {0x0600, "host-bridge"},
    {0x0601, "isa-bridge"},   {0x0604, "pci-bridge"},     {0x0700, "serial"},  {0x0780, "communication"},
    {0x0880, "system"},       {0x0900, "input"},          {0x0c03, "usb"},     {0x00ff, "unclassified"},
};

const char *pci_name(const struct pci_function *f)
{
    if (f->vendor == VIRTIO_VENDOR && virtio_device_type(f))
        return virtio_type_name(virtio_device_type(f));
    for (unsigned i = 0; i < ARRAY_SIZE(devices); i++)
        if (devices[i].vendor == f->vendor && devices[i].device == f->device)
            return devices[i].name;
    for (unsigned i = 0; i < ARRAY_SIZE(classes); i++)
        if (classes[i].class_code == f->class_code >> 8)
            return classes[i].name;
    return "unknown";
}

void pci_print_bdf(const struct pci_function *f)
{
    print("%02x:%02x.%u", (u32)f->bdf >> 8, (u32)f->bdf >> 3 & 31, (u32)f->bdf & 7);
}

void pci_print(const struct pci_function *f)
{
    pci_print_bdf(f);
    print(" %04x:%04x %06x %s", f->vendor, f->device, f->class_code, pci_name(f));
    for (unsigned i = 0; i < 6; i++) {
        const struct bar *b = &f->bars[i];
        if (b->size)
            print(" bar%u=0x%lx/0x%lx/%s%s", i, b->address, b->size, b->is_io ? "io" : b->is_64 ? "64" : "32",
                  b->is_prefetchable ? "p" : "");
    }
    if (f->msix_entries)
        print(" msix=%u", f->msix_entries);
    print("\n");
}

struct pci_function *pci_find(u16 bdf)
{
    for (unsigned i = 0; i < pci_count; i++)
        if (pci_functions[i].bdf == bdf)
            return &pci_functions[i];
    return NULL;
}

static unsigned hex_digits(const char **cursor)
{
    unsigned value = 0;
    for (;; ++*cursor) {
        char c = **cursor;
        if (c >= '0' && c <= '9')
            value = value * 16 + (unsigned)(c - '0');
        else if ((c | 0x20) >= 'a' && (c | 0x20) <= 'f')
            value = value * 16 + (unsigned)((c | 0x20) - 'a' + 10);
        else
            return value;
    }
}

bool pci_parse_bdf(const char **cursor, u16 *bdf)
{
    const char *start = (text_peek(cursor), *cursor);
    unsigned bus = 0, device = hex_digits(cursor), function = 0;
    if (*cursor == start)
        return false;
    if (**cursor == ':') {
        ++*cursor;
        bus = device;
        device = hex_digits(cursor);
    }
    if (**cursor == '.') {
        ++*cursor;
        function = hex_digits(cursor);
    }
    *bdf = (u16)(bus << 8 | (device & 31) << 3 | (function & 7));
    return true;
}
