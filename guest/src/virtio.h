/* Virtio devices over PCI (virtio 1.2 §4.1) and their split virtqueues (§2.7). */
#ifndef VIRTIO_H
#define VIRTIO_H

#include "pci.h"
#include "types.h"

#define VIRTIO_VENDOR 0x1af4

enum { VIRTIO_NET = 1, VIRTIO_BLK = 2, VIRTIO_CONSOLE = 3, VIRTIO_RNG = 4 };

enum { /* §2.1 */
    STATUS_ACKNOWLEDGE = 1,
    STATUS_DRIVER = 2,
    STATUS_DRIVER_OK = 4,
    STATUS_FEATURES_OK = 8,
    STATUS_NEEDS_RESET = 64,
    STATUS_FAILED = 128,
};

#define FEATURE(n) (1UL << (n))
#define VIRTIO_F_INDIRECT_DESC 28
#define VIRTIO_F_EVENT_IDX 29
#define VIRTIO_F_VERSION_1 32
#define VIRTIO_F_ACCESS_PLATFORM 33

enum { /* struct virtio_pci_common_cfg, §4.1.4.3 */
    DEVICE_FEATURE_SELECT = 0x00,
    DEVICE_FEATURE = 0x04,
    DRIVER_FEATURE_SELECT = 0x08,
    DRIVER_FEATURE = 0x0C,
    CONFIG_MSIX_VECTOR = 0x10,
    NUM_QUEUES = 0x12,
    DEVICE_STATUS = 0x14,
    CONFIG_GENERATION = 0x15,
    QUEUE_SELECT = 0x16,
    QUEUE_SIZE = 0x18,
    QUEUE_MSIX_VECTOR = 0x1A,
    QUEUE_ENABLE = 0x1C,
    QUEUE_NOTIFY_OFF = 0x1E,
    QUEUE_DESC = 0x20,
    QUEUE_DRIVER = 0x28,
    QUEUE_DEVICE = 0x30,
};

#define VIRTIO_MSI_NO_VECTOR 0xffff
#define MAX_QUEUE_SIZE 128

enum { DESC_NEXT = 1, DESC_WRITE = 2, DESC_INDIRECT = 4 };

struct vring_desc {
    u64 addr;
    u32 len;
    u16 flags, next;
};

struct vring_avail {
    u16 flags, idx, ring[]; /* then used_event */
};

struct vring_used {
    u16 flags, idx;
    struct {
        u32 id, len;
    } ring[]; /* then avail_event */
};

struct virtqueue {
    struct virtio *device;
    u16 index, size;
    volatile struct vring_desc *desc;
    volatile struct vring_avail *avail;
    volatile struct vring_used *used;
    u16 free_head, free_count;
    u16 last_used, avail_idx, kicked_idx;
    u32 eiid; /* 0: polled */
    u64 notify;
    u64 kicks, kicks_saved;
    void *cookie[MAX_QUEUE_SIZE]; /* by head descriptor */
};

struct virtio {
    const struct pci_function *pci;
    u32 type;
    u64 common, isr, config, notify;
    u32 notify_multiplier, config_size;
    u64 device_features, features;
    u16 num_queues;
    bool msix;
    u32 config_eiid;
};

struct segment {
    u64 addr;
    u32 len;
};

/* Completions seen by a tick of the clock though no interrupt had come. */
extern u64 virtio_lost_interrupts;

/* 0 when the function is no virtio device. */
u32 virtio_device_type(const struct pci_function *f);
const char *virtio_type_name(u32 type);

/* Find the structures a modern device shows in its capabilities (§4.1.4); false when one is missing. */
bool virtio_open(struct virtio *v, const struct pci_function *f);
void virtio_reset(const struct virtio *v);
/* Reset, then §3.1.1 up to FEATURES_OK, accepting `wanted` of what is offered (VERSION_1 is always wanted). */
bool virtio_negotiate(struct virtio *v, u64 wanted);
void virtio_driver_ok(const struct virtio *v);
u8 virtio_status(const struct virtio *v);
u16 virtio_select_queue(const struct virtio *v, u16 index);

/* Allocate the rings once; `init` gives them to the device again after each reset: `program`, then enable. */
void virtqueue_alloc(struct virtqueue *q, struct virtio *v, u16 index);
bool virtqueue_program(struct virtqueue *q);
bool virtqueue_init(struct virtqueue *q);
/* Add one chain, device-readable segments first; through `table` (one entry each) when it is given. -1: queue full. */
int virtqueue_add(struct virtqueue *q, const struct segment *s, unsigned readable, unsigned writable,
                  struct vring_desc *table, void *cookie);
/* Make added chains visible and notify the device if it asks to be (§2.7.10, §2.7.13). */
void virtqueue_kick(struct virtqueue *q);
bool virtqueue_has_used(const struct virtqueue *q);
/* Take one completion: its cookie, or NULL. */
void *virtqueue_pop(struct virtqueue *q, u32 *length);
/* Wait for a completion, asleep when the queue has an interrupt; false after `timeout_us` of guest time. */
bool virtqueue_wait(struct virtqueue *q, u64 timeout_us);

#endif
