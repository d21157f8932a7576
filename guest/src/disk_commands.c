/* `d`: disks at the prompt. */
#include "blk.h"
#include "commands.h"
#include "console.h"
#include "heap.h"
#include "random.h"
#include "text.h"
#include "timer.h"

#define CHUNK 128 /* sectors a request of `d r` and `d w` takes at most */

static unsigned chosen;

static void read_sectors(struct disk *d, const char *args)
{
    u64 sector = 0, count = 1, done = 0;
    u8 status = VIRTIO_BLK_S_OK, *data = heap_scratch();
    text_number(&args, &sector);
    text_number(&args, &count);
    u64 start = time_now();
    u32 sum = 0; /* of the checksums of the pieces when there are several */
    while (done < count && status == VIRTIO_BLK_S_OK) {
        u64 n = MIN(count - done, (u64)CHUNK);
        memset(data, 0xa5, 16);
        status = disk_transfer(d, 0, VIRTIO_BLK_T_IN, sector + done, data, (u32)(n * SECTOR));
        u32 piece = checksum(data, n * SECTOR);
        sum = done ? (sum << 1 | sum >> 31) ^ piece : piece;
        done += n;
    }
    print("read: disk=%u sector=%lu count=%lu status=%u crc32=%08x us=%lu first=", d->number, sector, count, status,
          sum, time_to_ns(time_now() - start) / 1000);
    for (unsigned i = 0; i < 8; i++)
        print("%02x", data[i]);
    print("\n");
}

static void fill(u64 *words, u64 bytes, u64 sector, u64 seed)
{
    for (u64 i = 0; i < bytes / 8; i++)
        words[i] = random_at(seed, sector * (SECTOR / 8) + i);
}

/* Read and compare with the pattern of `seed`; counts the words that differ. */
static u8 verify(struct disk *d, u64 sector, u64 count, u64 seed, u64 *errors)
{
    u64 *data = (u64 *)heap_scratch();
    for (u64 done = 0; done < count; done += CHUNK) {
        u64 bytes = MIN(count - done, (u64)CHUNK) * SECTOR;
        memset(data, 0, bytes);
        u8 status = disk_transfer(d, 0, VIRTIO_BLK_T_IN, sector + done, data, (u32)bytes);
        if (status != VIRTIO_BLK_S_OK)
            return status;
        for (u64 i = 0; i < bytes / 8; i++)
            *errors += data[i] != random_at(seed, (sector + done) * (SECTOR / 8) + i);
    }
    return VIRTIO_BLK_S_OK;
}

/* `d w` writes and verifies, `d v` verifies what an earlier `d w` (of another boot, perhaps) has written. */
static void write_or_verify(struct disk *d, const char *args, bool write)
{
    u64 sector, count, seed, errors = 0;
    if (!text_number(&args, &sector) || !text_number(&args, &count) || !text_number(&args, &seed)) {
        print("disk: error=usage: d %s SECTOR COUNT SEED\n", write ? "w" : "v");
        return;
    }
    u64 *data = (u64 *)heap_scratch();
    u8 status = VIRTIO_BLK_S_OK;
    u32 sum = 0;
    for (u64 done = 0; done < count && status == VIRTIO_BLK_S_OK; done += CHUNK) {
        u64 bytes = MIN(count - done, (u64)CHUNK) * SECTOR;
        fill(data, bytes, sector + done, seed);
        u32 piece = checksum(data, bytes);
        sum = done ? (sum << 1 | sum >> 31) ^ piece : piece;
        if (write)
            status = disk_transfer(d, 0, VIRTIO_BLK_T_OUT, sector + done, data, (u32)bytes);
    }
    u8 read_status = status ? BLK_NO_STATUS : verify(d, sector, count, seed, &errors);
    print("%s: disk=%u sector=%lu count=%lu seed=%lu status=%u read_status=%u crc32=%08x errors=%lu result=%s\n",
          write ? "write" : "verify", d->number, sector, count, seed, status, read_status, sum, errors,
          status || read_status || errors ? "failed" : "ok");
}

/* Random 4 KiB reads, `depth` of them in flight, spread over the queues. */
static void stress(struct disk *d, const char *args)
{
    u64 count = 1000, depth = 32, posted = 0, done = 0, errors = 0, seed = time_now();
    text_number(&args, &count);
    text_number(&args, &depth);
    depth = MAX(1UL, MIN(depth, MIN((u64)MAX_DEPTH, count)));
    u64 blocks = d->capacity / 8, per_queue = (depth + d->queue_count - 1) / d->queue_count;
    if (!blocks) {
        print("stress: error=disk-too-small\n");
        return;
    }
    u64 start = time_now();
    u64 in_flight[MAX_DISK_QUEUES] = {0};
    u64 free_slots = depth == 64 ? ~0UL : (1UL << depth) - 1;
    while (done < count) {
        for (unsigned q = 0; q < d->queue_count; q++) {
            while (posted < count && free_slots && in_flight[q] < per_queue) {
                unsigned slot = 0;
                while (!(free_slots >> slot & 1))
                    slot++;
                if (!disk_submit(d, q, slot, VIRTIO_BLK_T_IN, random_at(seed, posted) % blocks * 8,
                                 heap_scratch() + slot * 4096UL, 4096))
                    break;
                free_slots &= ~(1UL << slot);
                in_flight[q]++;
                posted++;
            }
            virtqueue_kick(&d->queues[q]);
        }
        for (unsigned q = 0; q < d->queue_count; q++) {
            if (!in_flight[q])
                continue;
            struct request *r = disk_complete(d, q); /* sleeps for the first, takes the others that are there */
            if (!r) {
                print("stress: error=timeout queue=%u posted=%lu done=%lu\n", q, posted, done);
                disk_init(d);
                return;
            }
            for (; r; r = virtqueue_pop(&d->queues[q], NULL)) {
                errors += r->status != VIRTIO_BLK_S_OK;
                free_slots |= 1UL << r->slot;
                in_flight[q]--;
                done++;
            }
        }
    }
    u64 ns = MAX(1UL, time_to_ns(time_now() - start));
    print("stress: disk=%u count=%lu depth=%lu errors=%lu us=%lu iops=%lu\n", d->number, count, depth, errors,
          ns / 1000, count * 1000000000UL / ns);
}

static void list(void)
{
    for (unsigned i = 0; i < disk_count; i++)
        disk_print(disks[i]);
    if (!disk_count)
        print("disk: error=none\n");
}

void command_disk(const char *args)
{
    char what = text_peek(&args);
    u64 number;
    if (what == '@') {
        args++;
        if (!text_number(&args, &number) || number >= disk_count) {
            print("disk: error=no-such-disk\n");
            return;
        }
        chosen = (unsigned)number;
        print("disk: chosen=%u\n", chosen);
        return;
    }
    if (!what || !disk_count) {
        list();
        return;
    }
    struct disk *d = disks[chosen];
    u8 status;
    args++;
    switch (what) {
    case 'r': read_sectors(d, args); break;
    case 'w': write_or_verify(d, args, true); break;
    case 'v': write_or_verify(d, args, false); break;
    case 's': stress(d, args); break;
    case 'f':
        status = disk_transfer(d, 0, VIRTIO_BLK_T_FLUSH, 0, NULL, 0);
        print("flush: disk=%u status=%u result=%s\n", d->number, status, status ? "failed" : "ok");
        break;
    default: print("disk: error=unknown-command\n");
    }
}
