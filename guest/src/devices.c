/* What the report does with each PCI function: drive it if it is known, say what it is if not. */
#include "devices.h"
#include "blk.h"
#include "console.h"
#include "heap.h"
#include "text.h"
#include "virtio.h"

#define VIRTIO_NET_F_MAC 5
#define VIRTIO_NET_F_STATUS 16

/* Entropy device (virtio 1.2 §5.4): one queue, device-writable buffers. */
static bool report_rng(const struct pci_function *f)
{
    struct virtio *v = heap_alloc(sizeof *v, 16);
    struct virtqueue *q = heap_alloc(sizeof *q, 16);
    u8 *bytes = heap_alloc(16, 16);
    if (!virtio_open(v, f) || !virtio_negotiate(v, FEATURE(VIRTIO_F_EVENT_IDX)))
        return false;
    virtqueue_alloc(q, v, 0);
    if (!virtqueue_init(q))
        return false;
    virtio_driver_ok(v);
    struct segment s = {(u64)bytes, 16};
    u32 length = 0;
    virtqueue_add(q, &s, 0, 1, NULL, q);
    virtqueue_kick(q);
    bool ok = virtqueue_wait(q, 10000000) && virtqueue_pop(q, &length) && length > 0 && length <= 16;
    print("rng: length=%u bytes=", length);
    for (unsigned i = 0; i < 16; i++)
        print("%02x", bytes[i]);
    print("\n");
    virtio_reset(v);
    return ok;
}

/* Network device (§5.1): identity only; the device is left in reset. */
static bool report_net(const struct pci_function *f)
{
    struct virtio *v = heap_alloc(sizeof *v, 16);
    if (!virtio_open(v, f) || !virtio_negotiate(v, FEATURE(VIRTIO_NET_F_MAC) | FEATURE(VIRTIO_NET_F_STATUS)))
        return false;
    print("net: mac=");
    for (unsigned i = 0; i < 6; i++)
        print("%s%02x", i ? ":" : "", v->features & FEATURE(VIRTIO_NET_F_MAC) ? read8(v->config + i) : 0);
    if (v->features & FEATURE(VIRTIO_NET_F_STATUS))
        print(" link=%s", read16(v->config + 6) & 1 ? "up" : "down");
    print(" queues=%u features=0x%lx\n", (u32)v->num_queues, v->device_features);
    virtio_reset(v);
    return true;
}

/* Any other virtio device: negotiate nothing beyond VERSION_1 and leave it in reset. */
static bool report_other_virtio(const struct pci_function *f)
{
    struct virtio *v = heap_alloc(sizeof *v, 16);
    if (!virtio_open(v, f) || !virtio_negotiate(v, 0))
        return false;
    print("virtio: type=%u queues=%u features=0x%lx config_size=%u\n", v->type, (u32)v->num_queues, v->device_features,
          v->config_size);
    virtio_reset(v);
    return true;
}

/* A function with registers and no driver here: its first words, read as the bus shows them. */
static bool report_registers(const struct pci_function *f)
{
    for (unsigned i = 0; i < 6; i++) {
        const struct bar *b = &f->bars[i];
        if (!b->address || b->is_io || b->size < 16)
            continue;
        print("registers: at=");
        pci_print_bdf(f);
        print(" bar%u=%08x,%08x,%08x,%08x\n", i, read32(b->address), read32(b->address + 4), read32(b->address + 8),
              read32(b->address + 12));
    }
    return true;
}

void devices_report(unsigned *exercised, unsigned *failures)
{
    for (unsigned i = 0; i < pci_count; i++) {
        const struct pci_function *f = &pci_functions[i];
        u32 type = virtio_device_type(f);
        bool ok = true;
        if (type == VIRTIO_BLK) {
            struct disk *d = disk_open(f);
            unsigned wrong = d ? disk_report(d) : 1;
            *failures += wrong;
            *exercised += wrong == 0;
            continue;
        }
        if (type == VIRTIO_RNG)
            ok = report_rng(f);
        else if (type == VIRTIO_NET)
            ok = report_net(f);
        else if (type)
            ok = report_other_virtio(f);
        else if (f->class_code >> 16 == 0x06)
            continue;
        else
            ok = report_registers(f);
        if (!ok) {
            print("device: at=");
            pci_print_bdf(f);
            print(" error=not-working name=%s\n", pci_name(f));
        }
        *failures += !ok;
        *exercised += ok;
    }
}
