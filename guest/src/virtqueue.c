/* Split virtqueues, driver side (virtio 1.2 §2.7). */
#include "heap.h"
#include "irq.h"
#include "text.h"
#include "timer.h"
#include "trap.h"
#include "virtio.h"

#define LATE_US 3000000 /* an interrupt that is later than this is lost */

u64 virtio_lost_interrupts;

void virtqueue_alloc(struct virtqueue *q, struct virtio *v, u16 index)
{
    memset(q, 0, sizeof *q);
    q->device = v;
    q->index = index;
    q->desc = heap_alloc(16 * MAX_QUEUE_SIZE, 16);
    q->avail = heap_alloc(6 + 2 * MAX_QUEUE_SIZE, 2);
    q->used = heap_alloc(6 + 8 * MAX_QUEUE_SIZE, 4);
    if (irq_has_msi())
        q->eiid = irq_alloc();
}

static void write_address(const struct virtio *v, u32 offset, volatile const void *p)
{
    write32(v->common + offset, (u32)(u64)p); /* 64-bit fields as two 32-bit accesses, §4.1.3.1 */
    write32(v->common + offset + 4, (u32)((u64)p >> 32));
}

bool virtqueue_program(struct virtqueue *q)
{
    struct virtio *v = q->device;
    u16 offered = virtio_select_queue(v, q->index);
    if (offered == 0)
        return false;
    q->size = MIN(offered, MAX_QUEUE_SIZE);
    memset((void *)q->desc, 0, 16UL * q->size);
    memset((void *)q->avail, 0, 6 + 2UL * q->size);
    memset((void *)q->used, 0, 6 + 8UL * q->size);
    for (u16 i = 0; i < q->size; i++)
        q->desc[i].next = i + 1;
    q->free_head = 0;
    q->free_count = q->size;
    q->last_used = q->avail_idx = q->kicked_idx = 0;
    write16(v->common + QUEUE_SIZE, q->size);
    write_address(v, QUEUE_DESC, q->desc);
    write_address(v, QUEUE_DRIVER, q->avail);
    write_address(v, QUEUE_DEVICE, q->used);
    q->notify = v->notify + (u64)read16(v->common + QUEUE_NOTIFY_OFF) * v->notify_multiplier;
    if (v->msix && q->eiid) {
        u16 vector = (u16)MIN(1U + q->index, v->pci->msix_entries - 1);
        pci_msix_route(v->pci, vector, q->eiid);
        write16(v->common + QUEUE_MSIX_VECTOR, vector);
        if (read16(v->common + QUEUE_MSIX_VECTOR) != vector)
            return false;
    } else {
        write16(v->common + QUEUE_MSIX_VECTOR, VIRTIO_MSI_NO_VECTOR);
        q->eiid = 0;
    }
    return true;
}

bool virtqueue_init(struct virtqueue *q)
{
    if (!virtqueue_program(q))
        return false;
    write16(q->device->common + QUEUE_ENABLE, 1);
    return true;
}

static bool has_event_idx(const struct virtqueue *q) { return q->device->features & FEATURE(VIRTIO_F_EVENT_IDX); }

/* The word after the rings: used_event is ours, avail_event the device's. */
static volatile u16 *used_event(struct virtqueue *q) { return &q->avail->ring[q->size]; }
static volatile u16 *avail_event(struct virtqueue *q) { return (volatile u16 *)&q->used->ring[q->size]; }

static void fill(volatile struct vring_desc *d, const struct segment *s, bool is_last, bool is_write)
{
    d->addr = s->addr;
    d->len = s->len;
    d->flags = (is_last ? 0 : DESC_NEXT) | (is_write ? DESC_WRITE : 0);
}

static void publish(struct virtqueue *q, u16 head)
{
    q->avail->ring[q->avail_idx % q->size] = head;
    q->avail_idx++;
}

int virtqueue_add(struct virtqueue *q, const struct segment *s, unsigned readable, unsigned writable,
                  struct vring_desc *table, void *cookie)
{
    unsigned total = readable + writable, needed = table ? 1 : total;
    if (q->free_count < needed)
        return -1;
    u16 head = q->free_head;
    if (table) { /* §2.7.5.3 */
        for (unsigned i = 0; i < total; i++) {
            fill(&table[i], &s[i], i + 1 == total, i >= readable);
            table[i].next = (u16)(i + 1);
        }
        q->free_head = q->desc[head].next;
        q->desc[head].addr = (u64)table;
        q->desc[head].len = total * 16;
        q->desc[head].flags = DESC_INDIRECT;
    } else {
        u16 at = head;
        for (unsigned i = 0; i < total; i++) {
            fill(&q->desc[at], &s[i], i + 1 == total, i >= readable);
            at = q->desc[at].next;
        }
        q->free_head = at;
    }
    q->free_count -= (u16)needed;
    q->cookie[head] = cookie;
    publish(q, head);
    return head;
}

void virtqueue_kick(struct virtqueue *q)
{
    u16 old = q->kicked_idx, new = q->avail_idx;
    if (old == new)
        return;
    fence_write();
    q->avail->idx = new;
    fence_all(); /* publish before looking whether the device wants to know */
    q->kicked_idx = new;
    bool wanted = has_event_idx(q) ? (u16)(new - *avail_event(q) - 1) < (u16)(new - old) : !(q->used->flags & 1);
    if (!wanted) {
        q->kicks_saved++;
        return;
    }
    q->kicks++;
    write16(q->notify, q->index);
}

bool virtqueue_has_used(const struct virtqueue *q) { return q->used->idx != q->last_used; }

static void give_back(struct virtqueue *q, u16 head)
{
    u16 at = head, count = 1;
    while (q->desc[at].flags & DESC_NEXT && count < q->size) {
        at = q->desc[at].next;
        count++;
    }
    q->desc[at].next = q->free_head;
    q->free_head = head;
    q->free_count += count;
}

/* Ask to be interrupted at the next completion, or (polled) not before the index has wrapped. */
static void want_interrupt(struct virtqueue *q, bool want)
{
    if (has_event_idx(q))
        *used_event(q) = want ? q->last_used : q->last_used - 1;
    else
        q->avail->flags = want ? 0 : 1;
}

void *virtqueue_pop(struct virtqueue *q, u32 *length)
{
    if (!virtqueue_has_used(q))
        return NULL;
    fence_read();
    u32 id = q->used->ring[q->last_used % q->size].id;
    if (length)
        *length = q->used->ring[q->last_used % q->size].len;
    q->last_used++;
    if (id >= q->size || !q->cookie[id])
        return NULL; /* the device made it up */
    void *cookie = q->cookie[id];
    q->cookie[id] = NULL;
    give_back(q, (u16)id);
    if (!q->eiid)
        want_interrupt(q, false);
    return cookie;
}

/*
 * Whether the interrupt for what is in the used ring never comes. A device shows the entry first and interrupts then,
 * and one that was killed between the two is replaced: the clock may tick just there, which loses nothing.
 */
static bool interrupt_is_lost(struct virtqueue *q, u64 interrupts)
{
    u64 end = time_now() + time_from_us(LATE_US);
    while (irq_count[q->eiid] == interrupts && time_now() < end) {
        timer_arm(end);
        cpu_idle();
    }
    return irq_count[q->eiid] == interrupts;
}

bool virtqueue_wait(struct virtqueue *q, u64 timeout_us)
{
    u64 end = time_now() + time_from_us(timeout_us), second = time_from_us(1000000);
    while (!virtqueue_has_used(q)) {
        u64 now = time_now();
        if (now >= end)
            return false;
        if (!q->eiid)
            continue;
        want_interrupt(q, true);
        fence_all(); /* §2.7.7.2: enable, then look again */
        if (virtqueue_has_used(q))
            break;
        u64 interrupts = irq_count[q->eiid], ticks = trap_counts.timer;
        timer_arm(MIN(now + second, end));
        cpu_idle();
        if (virtqueue_has_used(q) && irq_count[q->eiid] == interrupts && trap_counts.timer != ticks)
            virtio_lost_interrupts += interrupt_is_lost(q, interrupts);
    }
    fence_read();
    return true;
}
