/* Modern virtio over PCI: capabilities, feature negotiation, status (virtio 1.2 §3.1, §4.1). */
#include "virtio.h"
#include "irq.h"
#include "text.h"
#include "timer.h"

enum { CFG_COMMON = 1, CFG_NOTIFY = 2, CFG_ISR = 3, CFG_DEVICE = 4 };

u32 virtio_device_type(const struct pci_function *f)
{
    if (f->vendor != VIRTIO_VENDOR)
        return 0;
    if (f->device >= 0x1040 && f->device < 0x1080)
        return f->device - 0x1040;
    if (f->device >= 0x1000 && f->device < 0x1040) /* transitional: the type is the subsystem id (§4.1.2.3) */
        return f->subsystem;
    return 0;
}

const char *virtio_type_name(u32 type)
{
    static const char *const names[] = {
        [1] = "virtio-net",    [2] = "virtio-blk",    [3] = "virtio-console", [4] = "virtio-rng",
        [5] = "virtio-balloon", [8] = "virtio-scsi",  [9] = "virtio-9p",      [16] = "virtio-gpu",
        [18] = "virtio-input", [19] = "virtio-vsock", [20] = "virtio-crypto", [23] = "virtio-iommu",
        [24] = "virtio-mem",   [25] = "virtio-sound", [26] = "virtio-fs",     [27] = "virtio-pmem",
        [34] = "virtio-i2c",   [41] = "virtio-gpio",
    };
    return type < ARRAY_SIZE(names) && names[type] ? names[type] : "virtio-device";
}

/* Where one structure lies, checked against its BAR (§4.1.4); 0 when the capability is nonsense. */
static u64 structure_address(const struct pci_function *f, u32 at, u32 *length)
{
    u32 bar = pci_read(f, at + 4, 1), offset = pci_read(f, at + 8, 4);
    *length = pci_read(f, at + 12, 4);
    if (bar > 5 || !f->bars[bar].address || (u64)offset + *length > f->bars[bar].size)
        return 0;
    return f->bars[bar].address + offset;
}

bool virtio_open(struct virtio *v, const struct pci_function *f)
{
    memset(v, 0, sizeof *v);
    v->pci = f;
    v->type = virtio_device_type(f);
    for (u32 at = 0; (at = pci_find_capability(f, PCI_CAP_VENDOR, at)) != 0;) {
        u32 length;
        u64 address = structure_address(f, at, &length);
        if (!address)
            continue;
        switch (pci_read(f, at + 3, 1)) { /* the first of each kind is the preferred one */
        case CFG_COMMON:
            v->common = v->common ? v->common : address;
            break;
        case CFG_NOTIFY:
            if (!v->notify) {
                v->notify = address;
                v->notify_multiplier = pci_read(f, at + 16, 4);
            }
            break;
        case CFG_ISR:
            v->isr = v->isr ? v->isr : address;
            break;
        case CFG_DEVICE:
            if (!v->config) {
                v->config = address;
                v->config_size = length;
            }
            break;
        }
    }
    return v->common && v->notify && v->isr;
}

u8 virtio_status(const struct virtio *v) { return read8(v->common + DEVICE_STATUS); }

static void add_status(const struct virtio *v, u8 bits)
{
    write8(v->common + DEVICE_STATUS, virtio_status(v) | bits);
}

void virtio_reset(const struct virtio *v)
{
    write8(v->common + DEVICE_STATUS, 0);
    u64 end = time_now() + time_from_us(5000000);
    while (virtio_status(v) != 0 && time_now() < end) /* §4.1.4.3.2: wait until it reads 0 */
        ;
}

static u64 device_features(const struct virtio *v)
{
    write32(v->common + DEVICE_FEATURE_SELECT, 0);
    u64 low = read32(v->common + DEVICE_FEATURE);
    write32(v->common + DEVICE_FEATURE_SELECT, 1);
    return low | (u64)read32(v->common + DEVICE_FEATURE) << 32;
}

/* Vector 0 for configuration changes, 1 + n for queue n; one identity of the IMSIC each. */
static void set_up_msix(struct virtio *v)
{
    v->msix = irq_has_msi() && v->pci->msix_entries >= 2;
    pci_msix_enable(v->pci, v->msix);
    if (!v->msix)
        return;
    if (!v->config_eiid)
        v->config_eiid = irq_alloc();
    pci_msix_route(v->pci, 0, v->config_eiid);
    write16(v->common + CONFIG_MSIX_VECTOR, v->config_eiid ? 0 : VIRTIO_MSI_NO_VECTOR);
}

bool virtio_negotiate(struct virtio *v, u64 wanted)
{
    virtio_reset(v);
    add_status(v, STATUS_ACKNOWLEDGE);
    add_status(v, STATUS_DRIVER);
    v->device_features = device_features(v);
    v->features = v->device_features & (wanted | FEATURE(VIRTIO_F_VERSION_1) | FEATURE(VIRTIO_F_ACCESS_PLATFORM));
    write32(v->common + DRIVER_FEATURE_SELECT, 0);
    write32(v->common + DRIVER_FEATURE, (u32)v->features);
    write32(v->common + DRIVER_FEATURE_SELECT, 1);
    write32(v->common + DRIVER_FEATURE, (u32)(v->features >> 32));
    add_status(v, STATUS_FEATURES_OK);
    if (!(v->features & FEATURE(VIRTIO_F_VERSION_1)) || !(virtio_status(v) & STATUS_FEATURES_OK)) {
        add_status(v, STATUS_FAILED);
        return false;
    }
    v->num_queues = read16(v->common + NUM_QUEUES);
    set_up_msix(v);
    return true;
}

void virtio_driver_ok(const struct virtio *v) { add_status(v, STATUS_DRIVER_OK); }

u16 virtio_select_queue(const struct virtio *v, u16 index)
{
    write16(v->common + QUEUE_SELECT, index);
    return read16(v->common + QUEUE_SIZE);
}
