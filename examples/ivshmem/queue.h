/*
 * A message queue between two sides, in memory that they share and do not trust each other with.
 *
 * Each side has a block of words that it alone writes, and a ring for the messages that it sends:
 *
 *     0x0000  words of side 0        0x1000              ring of side 0, 1 << order bytes
 *     0x0200  words of side 1        0x1000 + ring size  ring of side 1
 *
 * A message in a ring is its length, its sequence number, its bytes, and padding to a multiple of 8. `head` and `tail`
 * count bytes and never wrap at the ring's size: `head` what its side has sent, `tail` what its side has taken.
 *
 * A `generation` is a number that a side draws when it starts; 0: it is not there. Two sides are in a session when each
 * has the other's generation in its `seen`; only then are there messages. So who joins late, leaves or starts again is
 * noticed by the other, and starts from an empty queue.
 *
 * Who wants to be rung writes a new number to `sleeping`, looks once more, and sleeps. The other rings once for each
 * such number, after it has sent, or taken enough. Between the store and the look on both sides there is a full fence.
 *
 * What the other side writes is checked; what this side wrote itself is never read back. Little-endian hosts only.
 */
#ifndef IVSHMEM_QUEUE_H
#define IVSHMEM_QUEUE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum {
    IVQ_MAGIC = 0x31717669, /* "ivq1" */
    IVQ_RINGS = 0x1000,     /* where the rings begin */
    IVQ_HEADER = 8,         /* before each message */
    IVQ_ORDER_MIN = 6,
    IVQ_ORDER_MAX = 30,
};

/* Words that one side writes, by number; what is written often has a cache line of its own. */
enum ivq_word {
    IVQ_W_MAGIC = 0,
    IVQ_W_ORDER = 1,
    IVQ_W_GENERATION = 2,
    IVQ_W_SEEN = 3,
    IVQ_W_BELL = 4,  /* what to write to the doorbell register to ring this side: peer << 16 | vector */
    IVQ_W_RINGS = 5, /* 1: this side can ring */
    IVQ_W_HEAD = 16,
    IVQ_W_TAIL = 32,
    IVQ_W_SLEEPING = 48,
    IVQ_BLOCK_WORDS = 128,
};

enum ivq_result {
    IVQ_OK = 0,
    IVQ_AGAIN, /* nothing there, no room, or nobody there yet: later */
    IVQ_GONE,  /* the other side left or started again: `ivq_connect` */
    IVQ_BAD,   /* the other side wrote nonsense: `error` says what */
};

struct ivq {
    const char *error;
    uint32_t size, order, generation, seen;
    uint32_t head, tail;                   /* ours, as counted here */
    uint32_t sent, received;               /* sequence numbers that come next */
    uint32_t taken, other_head;            /* of the ring that we read: as seen last */
    uint32_t ticket, rung;                 /* our last number in `sleeping`; theirs for which we rang */
    _Atomic uint32_t *mine, *theirs;       /* words */
    unsigned char *out, *in;               /* rings */
};

static inline uint32_t ivq_their(const struct ivq *q, enum ivq_word word)
{
    return atomic_load_explicit(q->theirs + word, memory_order_acquire);
}

static inline void ivq_say(struct ivq *q, enum ivq_word word, uint32_t value)
{
    atomic_store_explicit(q->mine + word, value, memory_order_release);
}

static inline enum ivq_result ivq_bad(struct ivq *q, const char *error)
{
    q->error = error;
    return IVQ_BAD;
}

static inline size_t ivq_bytes(unsigned order)
{
    return IVQ_RINGS + 2 * ((size_t)1 << order);
}

/* Be gone before indices change: who sees one of the new ones sees that, too. */
static inline void ivq_leave(struct ivq *q)
{
    ivq_say(q, IVQ_W_GENERATION, 0);
    atomic_thread_fence(memory_order_seq_cst);
}

/* Begin at an empty queue. */
static inline void ivq_reset(struct ivq *q)
{
    q->head = q->tail = q->sent = q->received = q->other_head = q->rung = 0;
    ivq_say(q, IVQ_W_HEAD, 0);
    ivq_say(q, IVQ_W_TAIL, 0);
}

/*
 * Be there as `side` (0 or 1) of the queue in `memory`. `bell` is what rings this side, `rings` whether it can ring the
 * other, `random` any number. Returns false, with `error`, if the queue does not fit.
 */
static inline bool ivq_open(struct ivq *q, void *memory, size_t bytes, unsigned side, unsigned order, uint32_t bell,
                            bool rings, uint32_t random)
{
    memset(q, 0, sizeof *q);
    if (side > 1 || order < IVQ_ORDER_MIN || order > IVQ_ORDER_MAX || bytes < ivq_bytes(order)) {
        q->error = "the queue does not fit into the memory";
        return false;
    }
    _Atomic uint32_t *words = memory;
    unsigned char *rings_ = (unsigned char *)memory + IVQ_RINGS;
    q->order = order;
    q->size = (uint32_t)1 << order;
    q->mine = words + side * IVQ_BLOCK_WORDS;
    q->theirs = words + !side * IVQ_BLOCK_WORDS;
    q->out = rings_ + (side ? q->size : 0);
    q->in = rings_ + (side ? 0 : q->size);
    uint32_t old = atomic_load(q->mine + IVQ_W_GENERATION);
    while (!random || random == old || random == ivq_their(q, IVQ_W_SEEN))
        random++;
    q->generation = q->ticket = random;
    ivq_leave(q);
    ivq_reset(q);
    ivq_say(q, IVQ_W_SEEN, 0);
    ivq_say(q, IVQ_W_SLEEPING, 0);
    ivq_say(q, IVQ_W_MAGIC, IVQ_MAGIC);
    ivq_say(q, IVQ_W_ORDER, order);
    ivq_say(q, IVQ_W_BELL, bell);
    ivq_say(q, IVQ_W_RINGS, rings);
    ivq_say(q, IVQ_W_GENERATION, q->generation);
    return true;
}

/* Whether the other side is the one of this session; after what depends on it was read. */
static inline bool ivq_same(const struct ivq *q)
{
    atomic_thread_fence(memory_order_acquire);
    return q->seen && ivq_their(q, IVQ_W_GENERATION) == q->seen;
}

/* Go on towards a session; IVQ_AGAIN until there is one, for what is there may be of an earlier program: `error` says
 * what is wrong with it. Call `ivq_must_ring` after it: the other may sleep. */
static inline enum ivq_result ivq_connect(struct ivq *q)
{
    uint32_t other = ivq_their(q, IVQ_W_GENERATION);
    q->error = NULL;
    if (!other)
        return IVQ_AGAIN;
    if (ivq_their(q, IVQ_W_MAGIC) != IVQ_MAGIC)
        q->error = "the other side has no queue of this kind";
    else if (ivq_their(q, IVQ_W_ORDER) != q->order)
        q->error = "the other side has rings of another size";
    if (q->error)
        return IVQ_AGAIN;
    if (other != q->seen) {
        if (q->seen) { /* ours may have counted already: new indices, and the other has to see that they are new */
            ivq_say(q, IVQ_W_SEEN, 0);
            ivq_reset(q);
        }
        q->seen = other;
        ivq_say(q, IVQ_W_SEEN, other);
    }
    return ivq_their(q, IVQ_W_SEEN) == q->generation && ivq_same(q) ? IVQ_OK : IVQ_AGAIN;
}

static inline enum ivq_result ivq_gone_or(struct ivq *q, enum ivq_result otherwise, const char *error)
{
    if (!ivq_same(q))
        return IVQ_GONE;
    q->error = error;
    return otherwise;
}

static inline void ivq_copy_in(const struct ivq *q, uint32_t at, const void *data, uint32_t length)
{
    uint32_t start = at & (q->size - 1), first = q->size - start < length ? q->size - start : length;
    memcpy(q->out + start, data, first);
    memcpy(q->out, (const unsigned char *)data + first, length - first);
}

static inline void ivq_copy_out(const struct ivq *q, uint32_t at, void *data, uint32_t length)
{
    uint32_t start = at & (q->size - 1), first = q->size - start < length ? q->size - start : length;
    memcpy(data, q->in + start, first);
    memcpy((unsigned char *)data + first, q->in, length - first);
}

/* The longest message: with half of a ring there is always one that can be written when the other was rung for room. */
static inline uint32_t ivq_longest(const struct ivq *q)
{
    return q->size / 2 - IVQ_HEADER;
}

static inline uint32_t ivq_padded(uint32_t length)
{
    return (length + IVQ_HEADER + 7) & ~7u;
}

/* Send a message. */
static inline enum ivq_result ivq_put(struct ivq *q, const void *data, uint32_t length)
{
    if (length > ivq_longest(q))
        return ivq_bad(q, "the message is too long for the ring");
    uint32_t used = q->head - ivq_their(q, IVQ_W_TAIL);
    if (used > q->size || used & 7)
        return ivq_gone_or(q, IVQ_BAD, "the other side took what was never sent");
    if (q->size - used < ivq_padded(length) || !ivq_same(q))
        return ivq_gone_or(q, IVQ_AGAIN, NULL);
    uint32_t header[2] = {length, q->sent};
    ivq_copy_in(q, q->head, header, sizeof header);
    ivq_copy_in(q, q->head + IVQ_HEADER, data, length);
    q->sent++;
    q->head += ivq_padded(length);
    ivq_say(q, IVQ_W_HEAD, q->head);
    return IVQ_OK;
}

/* Take a message of at most `room` bytes. */
static inline enum ivq_result ivq_get(struct ivq *q, void *data, uint32_t room, uint32_t *length)
{
    uint32_t used = ivq_their(q, IVQ_W_HEAD) - q->tail, header[2];
    if (!used)
        return ivq_gone_or(q, IVQ_AGAIN, NULL);
    if (used > q->size || used & 7)
        return ivq_gone_or(q, IVQ_BAD, "the other side sent more than the ring holds");
    ivq_copy_out(q, q->tail, header, sizeof header); /* once: it may change */
    if (header[0] > q->size - IVQ_HEADER || ivq_padded(header[0]) > used)
        return ivq_gone_or(q, IVQ_BAD, "a message is longer than what was sent");
    if (header[0] > room)
        return ivq_gone_or(q, IVQ_BAD, "a message is longer than this side takes");
    if (header[1] != q->received)
        return ivq_gone_or(q, IVQ_BAD, "a message has the wrong sequence number");
    ivq_copy_out(q, q->tail + IVQ_HEADER, data, header[0]);
    if (!ivq_same(q))
        return IVQ_GONE;
    *length = header[0];
    q->received++;
    q->other_head = q->tail + used;
    q->tail += ivq_padded(header[0]);
    ivq_say(q, IVQ_W_TAIL, q->tail);
    return IVQ_OK;
}

/* Whether the other side has taken all messages, after which it may have left; IVQ_AGAIN: not yet. */
static inline enum ivq_result ivq_drained(struct ivq *q)
{
    if (ivq_their(q, IVQ_W_TAIL) == q->head)
        return IVQ_OK;
    if (ivq_same(q))
        return IVQ_AGAIN;
    return ivq_their(q, IVQ_W_TAIL) == q->head ? IVQ_OK : IVQ_GONE; /* it took the last ones, and left, in between */
}

/* Announce that this side sleeps. Look once more at what is waited for, and then sleep, or do not; then `ivq_wake`. */
static inline void ivq_sleep(struct ivq *q)
{
    if (!++q->ticket)
        q->ticket++;
    ivq_say(q, IVQ_W_SLEEPING, q->ticket);
    atomic_thread_fence(memory_order_seq_cst);
}

static inline void ivq_wake(struct ivq *q)
{
    ivq_say(q, IVQ_W_SLEEPING, 0);
}

/* Whether the other side waits to be rung: `*bell` is what rings it. To be called after everything that it may wait
 * for: after `ivq_open`, `ivq_connect`, `ivq_put`, `ivq_get`, `ivq_leave`. */
static inline bool ivq_must_ring(struct ivq *q, uint32_t *bell)
{
    atomic_thread_fence(memory_order_seq_cst);
    uint32_t ticket = ivq_their(q, IVQ_W_SLEEPING);
    if (!ticket || ticket == q->rung)
        return false;
    q->rung = ticket;
    *bell = ivq_their(q, IVQ_W_BELL);
    return true;
}

/* The same after `ivq_get`: for a little room nobody is woken. */
static inline bool ivq_must_ring_for_room(struct ivq *q, uint32_t *bell)
{
    return q->other_head - q->tail <= q->size / 2 && ivq_must_ring(q, bell);
}

#endif
