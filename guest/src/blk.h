/* Disks: virtio-blk (virtio 1.2 §5.2). */
#ifndef BLK_H
#define BLK_H

#include "virtio.h"

#define MAX_DISKS 128
#define MAX_DISK_QUEUES 4
#define MAX_DEPTH 64
#define SECTOR 512

enum { VIRTIO_BLK_T_IN = 0, VIRTIO_BLK_T_OUT = 1, VIRTIO_BLK_T_FLUSH = 4, VIRTIO_BLK_T_GET_ID = 8 };
enum { VIRTIO_BLK_S_OK = 0, VIRTIO_BLK_S_IOERR = 1, VIRTIO_BLK_S_UNSUPP = 2, BLK_TIMEOUT = 0xfe, BLK_NO_STATUS = 0xff };

#define VIRTIO_BLK_F_SEG_MAX 2
#define VIRTIO_BLK_F_RO 5
#define VIRTIO_BLK_F_BLK_SIZE 6
#define VIRTIO_BLK_F_FLUSH 9
#define VIRTIO_BLK_F_CONFIG_WCE 11
#define VIRTIO_BLK_F_MQ 12

struct virtio_blk_req {
    u32 type, reserved;
    u64 sector;
};

struct request {
    struct vring_desc table[4]; /* first: 16-byte alignment */
    struct virtio_blk_req header;
    u64 submitted; /* time */
    u32 slot;
    volatile u8 status;
} __attribute__((aligned(16)));

struct disk {
    struct virtio v;
    unsigned number, queue_count;
    struct virtqueue queues[MAX_DISK_QUEUES];
    struct request *requests; /* MAX_DEPTH */
    u64 capacity;             /* sectors */
    u32 block_size;
    char id[21];
    bool is_ready;
};

extern struct disk *disks[MAX_DISKS];
extern unsigned disk_count;

/* Open and initialise the function; NULL (said why) when it cannot be driven. */
struct disk *disk_open(const struct pci_function *f);
/* Reset and initialise again. */
bool disk_init(struct disk *d);
/* Post one request without waiting; odd slots use an indirect table where negotiated. */
bool disk_submit(struct disk *d, unsigned queue, unsigned slot, u32 type, u64 sector, void *data, u32 size);
/* Next completed request of the queue, or NULL after thirty seconds of guest time. */
struct request *disk_complete(struct disk *d, unsigned queue);
/* One request, start to end; VIRTIO_BLK_S_*, or BLK_TIMEOUT. */
u8 disk_transfer(struct disk *d, unsigned queue, u32 type, u64 sector, void *data, u32 size);
u32 checksum(const void *data, u64 size); /* CRC-32 (IEEE 802.3) */
/* Print identity, first sector, flush: reads only. Returns the number of failures. */
unsigned disk_report(struct disk *d);
void disk_print(const struct disk *d);

#endif
