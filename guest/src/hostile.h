/* Attacks on a disk's virtqueue and transport: what a malicious or broken guest would do. */
#ifndef HOSTILE_H
#define HOSTILE_H

#include "blk.h"

enum expectation {
    ANYTHING,  /* the device may complete, refuse (DEVICE_NEEDS_RESET) or ignore it */
    MUST_WORK, /* unusual but legal: has to complete with VIRTIO_BLK_S_OK */
    MUST_FAIL, /* has to complete with another status, or be refused */
};

struct attack {
    const char *name;
    void (*run)(struct disk *d); /* on a freshly initialised disk */
    enum expectation expectation;
};

struct attack_list {
    const struct attack *attacks;
    unsigned count;
};

extern const struct attack_list ring_attacks, request_attacks, transport_attacks;

/* What the attacks have in memory. */
struct hostile_area {
    struct vring_desc table[16]; /* an indirect table */
    struct virtio_blk_req header;
    u8 joined[SECTOR]; /* directly before status */
    volatile u8 status;
    u8 data[2048];
};
extern struct hostile_area *area;

/* Set by an attack that checks something itself. */
extern bool attack_failed;

/* Write descriptor `i` of queue 0. */
void put_desc(struct disk *d, u16 i, u64 addr, u32 len, u16 flags, u16 next);
void put_header(u32 type, u64 sector);
/* Descriptors 0, 1, 2: header, `len` bytes of data at `addr`, status. */
void put_read(struct disk *d, u64 sector, u64 addr, u32 len);
/* Offer a head and notify without asking whether the device wants it. */
void offer(struct disk *d, u16 head);
void notify(const struct disk *d);

#endif
