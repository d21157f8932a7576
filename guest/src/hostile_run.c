/* `H [NAME]`: run the attacks on disk 0. After each the disk must reset, initialise and read the same as before. */
#include "commands.h"
#include "console.h"
#include "heap.h"
#include "hostile.h"
#include "text.h"
#include "timer.h"

#define PATIENCE_US 20000          /* for what the device may well ignore */
#define ANSWER_PATIENCE_US 5000000 /* for what it has to answer, on a loaded host too */

struct hostile_area *area;
bool attack_failed;
static u32 tally_completed, tally_needs_reset, tally_ignored, tally_failed, tally_run;

void put_desc(struct disk *d, u16 i, u64 addr, u32 len, u16 flags, u16 next)
{
    volatile struct vring_desc *e = &d->queues[0].desc[i];
    e->addr = addr;
    e->len = len;
    e->flags = flags;
    e->next = next;
}

void put_header(u32 type, u64 sector) { area->header = (struct virtio_blk_req){type, 0, sector}; }

void put_read(struct disk *d, u64 sector, u64 addr, u32 len)
{
    put_header(VIRTIO_BLK_T_IN, sector);
    put_desc(d, 0, (u64)&area->header, 16, DESC_NEXT, 1);
    put_desc(d, 1, addr, len, DESC_NEXT | DESC_WRITE, 2);
    put_desc(d, 2, (u64)&area->status, 1, DESC_WRITE, 0);
}

void notify(const struct disk *d)
{
    fence_all();
    write16(d->queues[0].notify, 0);
}

void offer(struct disk *d, u16 head)
{
    struct virtqueue *q = &d->queues[0];
    q->avail->ring[q->avail->idx % q->size] = head;
    fence_write();
    q->avail->idx = q->avail->idx + 1;
    notify(d);
}

/* Until the device has answered, refused, or been given up on. */
static const char *wait_for_outcome(const struct disk *d, enum expectation expectation)
{
    u64 end = time_now() + time_from_us(expectation == ANYTHING ? PATIENCE_US : ANSWER_PATIENCE_US);
    do {
        if (d->queues[0].used->idx != 0) {
            tally_completed++;
            return "completed";
        }
        if (virtio_status(&d->v) & STATUS_NEEDS_RESET) {
            tally_needs_reset++;
            return "needs_reset";
        }
    } while (time_now() < end);
    tally_ignored++;
    return "ignored";
}

static bool reads_as_before(struct disk *d, u32 sum)
{
    memset(heap_scratch(), 0, SECTOR);
    return disk_init(d) && disk_transfer(d, 0, VIRTIO_BLK_T_IN, 0, heap_scratch(), SECTOR) == VIRTIO_BLK_S_OK &&
           checksum(heap_scratch(), SECTOR) == sum;
}

static void run_attack(struct disk *d, const struct attack *a, u32 sum)
{
    area->status = BLK_NO_STATUS;
    attack_failed = false;
    bool ready = disk_init(d); /* the used index is 0 from here */
    a->run(d);
    const char *outcome = wait_for_outcome(d, a->expectation);
    u8 status = area->status;
    bool worked = text_equal(outcome, "completed") && status == VIRTIO_BLK_S_OK;
    bool as_expected = a->expectation == ANYTHING || worked == (a->expectation == MUST_WORK);
    bool ok = ready && !attack_failed && as_expected;
    bool recovered = reads_as_before(d, sum);
    tally_run++;
    tally_failed += !ok || !recovered;
    print("attack: name=%s outcome=%s status=%02x expected=%s recovered=%u\n", a->name, outcome, status,
          ok ? "yes" : "no", (u32)recovered);
}

void command_hostile_rings(const char *args)
{
    static const struct attack_list *const lists[] = {&ring_attacks, &request_attacks, &transport_attacks};
    text_peek(&args);
    if (!disk_count || disks[0]->capacity == 0) {
        print("hostile: error=no-disk\n");
        return;
    }
    struct disk *d = disks[0];
    if (!area)
        area = heap_alloc(sizeof *area, 16);
    tally_completed = tally_needs_reset = tally_ignored = tally_failed = tally_run = 0;
    u8 status = disk_transfer(d, 0, VIRTIO_BLK_T_IN, 0, heap_scratch(), SECTOR);
    u32 sum = checksum(heap_scratch(), SECTOR);
    if (status != VIRTIO_BLK_S_OK || !reads_as_before(d, sum)) {
        print("hostile: error=disk-not-working status=%u\n", status);
        return;
    }
    for (unsigned l = 0; l < ARRAY_SIZE(lists); l++)
        for (unsigned i = 0; i < lists[l]->count; i++)
            if (!*args || text_equal(args, lists[l]->attacks[i].name))
                run_attack(d, &lists[l]->attacks[i], sum);
    print("hostile: %s kind=rings attacks=%u completed=%u needs_reset=%u ignored=%u failures=%u\n",
          tally_failed ? "failed" : "ok", tally_run, tally_completed, tally_needs_reset, tally_ignored, tally_failed);
}
