/* The virtio-blk driver (virtio 1.2 §5.2). */
#include "blk.h"
#include "console.h"
#include "heap.h"
#include "text.h"
#include "timer.h"

#define WANTED                                                                                              \
    (FEATURE(VIRTIO_BLK_F_SEG_MAX) | FEATURE(VIRTIO_BLK_F_RO) | FEATURE(VIRTIO_BLK_F_BLK_SIZE) |             \
     FEATURE(VIRTIO_BLK_F_FLUSH) | FEATURE(VIRTIO_BLK_F_MQ) | FEATURE(VIRTIO_F_INDIRECT_DESC) |              \
     FEATURE(VIRTIO_F_EVENT_IDX))

struct disk *disks[MAX_DISKS];
unsigned disk_count;

struct disk *disk_open(const struct pci_function *f)
{
    if (disk_count == MAX_DISKS)
        return NULL;
    struct disk *d = heap_alloc(sizeof *d, 16);
    if (!virtio_open(&d->v, f)) {
        print("disk: error=capabilities-missing\n");
        return NULL;
    }
    d->requests = heap_alloc(sizeof *d->requests * MAX_DEPTH, 16);
    for (u16 i = 0; i < MAX_DISK_QUEUES; i++)
        d->queues[i].device = NULL; /* rings are allocated when first needed */
    if (!disk_init(d)) {
        print("disk: error=initialisation status=0x%x features=0x%lx\n", virtio_status(&d->v), d->v.device_features);
        return NULL;
    }
    d->number = disk_count;
    disks[disk_count++] = d;
    return d;
}

/* §4.1.3.1 and §2.5.1: 32-bit halves, read again when the generation changed meanwhile. */
static void read_config(struct disk *d)
{
    u64 c = d->v.config;
    u8 before;
    do {
        before = read8(d->v.common + CONFIG_GENERATION);
        d->capacity = read32(c) | (u64)read32(c + 4) << 32;
        d->block_size = d->v.features & FEATURE(VIRTIO_BLK_F_BLK_SIZE) ? read32(c + 20) : SECTOR;
        d->queue_count = d->v.features & FEATURE(VIRTIO_BLK_F_MQ) ? read16(c + 34) : 1;
    } while (read8(d->v.common + CONFIG_GENERATION) != before);
    d->queue_count = MAX(1U, MIN(d->queue_count, (unsigned)MAX_DISK_QUEUES));
}

bool disk_init(struct disk *d)
{
    d->is_ready = false;
    if (!virtio_negotiate(&d->v, WANTED) || !d->v.config)
        return false;
    read_config(d);
    for (u16 i = 0; i < d->queue_count; i++) {
        if (!d->queues[i].device)
            virtqueue_alloc(&d->queues[i], &d->v, i);
        if (!virtqueue_init(&d->queues[i]))
            return false;
    }
    virtio_driver_ok(&d->v);
    d->is_ready = true;
    return true;
}

bool disk_submit(struct disk *d, unsigned queue, unsigned slot, u32 type, u64 sector, void *data, u32 size)
{
    struct request *r = &d->requests[slot % MAX_DEPTH];
    r->header = (struct virtio_blk_req){type, 0, sector};
    r->status = BLK_NO_STATUS;
    r->slot = slot;
    struct segment s[3] = {{(u64)&r->header, sizeof r->header}};
    unsigned n = 1;
    if (size)
        s[n++] = (struct segment){(u64)data, size};
    s[n++] = (struct segment){(u64)&r->status, 1};
    unsigned readable = size && type == VIRTIO_BLK_T_OUT ? 2 : 1;
    bool indirect = (slot & 1) && (d->v.features & FEATURE(VIRTIO_F_INDIRECT_DESC));
    r->submitted = time_now();
    return virtqueue_add(&d->queues[queue], s, readable, n - readable, indirect ? r->table : NULL, r) >= 0;
}

struct request *disk_complete(struct disk *d, unsigned queue)
{
    return virtqueue_wait(&d->queues[queue], 30000000) ? virtqueue_pop(&d->queues[queue], NULL) : NULL;
}

u8 disk_transfer(struct disk *d, unsigned queue, u32 type, u64 sector, void *data, u32 size)
{
    static unsigned slot;
    slot++; /* alternate between direct and indirect chains */
    if (!d->is_ready || !disk_submit(d, queue, slot % MAX_DEPTH, type, sector, data, size))
        return BLK_TIMEOUT;
    virtqueue_kick(&d->queues[queue]);
    struct request *r = disk_complete(d, queue);
    return r ? r->status : BLK_TIMEOUT;
}

u32 checksum(const void *data, u64 size)
{
    static const u32 nibbles[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4,
                                    0x4db26158, 0x5005713c, 0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
                                    0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    const u8 *p = data;
    u32 crc = ~0U;
    for (; size--; p++) {
        crc = crc >> 4 ^ nibbles[(crc ^ *p) & 15];
        crc = crc >> 4 ^ nibbles[(crc ^ *p >> 4) & 15];
    }
    return ~crc;
}

void disk_print(const struct disk *d)
{
    const struct virtqueue *q = &d->queues[0];
    print("disk%u: at=", d->number);
    pci_print_bdf(d->v.pci);
    print(" sectors=%lu block=%u read_only=%u queues=%u queue_size=%u interrupt=%s features=0x%lx id=\"%s\" ready=%u"
          " kicks=%lu kicks_saved=%lu\n",
          d->capacity, d->block_size, (u32)(d->v.features >> VIRTIO_BLK_F_RO & 1), d->queue_count, (u32)q->size,
          q->eiid ? "msix" : "polled", d->v.features, d->id, (u32)d->is_ready, q->kicks, q->kicks_saved);
}

unsigned disk_report(struct disk *d)
{
    unsigned failures = 0;
    u8 *data = heap_scratch();
    u64 interrupts = virtio_lost_interrupts;
    memset(d->id, 0, sizeof d->id);
    u8 id_status = disk_transfer(d, 0, VIRTIO_BLK_T_GET_ID, 0, d->id, 20);
    failures += id_status != VIRTIO_BLK_S_OK && id_status != VIRTIO_BLK_S_UNSUPP;
    disk_print(d);
    if (d->capacity == 0)
        return failures;
    u32 first = 0;
    for (unsigned queue = 0; queue < d->queue_count; queue++) { /* every queue must see the same sector */
        memset(data, 0xa5, SECTOR);
        u8 status = disk_transfer(d, queue, VIRTIO_BLK_T_IN, 0, data, SECTOR);
        u32 sum = checksum(data, SECTOR);
        first = queue ? first : sum;
        failures += status != VIRTIO_BLK_S_OK || sum != first;
        if (queue == 0) {
            print("disk%u: sector=0 status=%u crc32=%08x first=", d->number, status, sum);
            for (unsigned i = 0; i < 16; i++)
                print("%02x", data[i]);
        }
    }
    if (d->v.features & FEATURE(VIRTIO_BLK_F_FLUSH)) {
        u8 status = disk_transfer(d, 0, VIRTIO_BLK_T_FLUSH, 0, NULL, 0);
        failures += status != VIRTIO_BLK_S_OK;
        print(" flush=%s", status == VIRTIO_BLK_S_OK ? "ok" : "failed");
    }
    failures += interrupts != virtio_lost_interrupts;
    print(" lost_interrupts=%lu\n", virtio_lost_interrupts - interrupts);
    return failures;
}
