/*
 * A guest of a few kilobytes that has an ivshmem-doorbell, whose vector 0 interrupts it by MSI-X and IMSIC: in S-mode,
 * without an operating system, so that what is measured is the machine. It does what is typed on its console:
 *
 *     id                   its id, and how large the memory is
 *     ping PEER N SPIN     ring, wait to be rung back; 0: asleep by wfi, 1: looking at the interrupt file
 *     pong PEER SPIN       the other side of it, until word 1 of the memory is 1 when it is rung
 *     answer PEER N        ring, wait until word 0 of the memory is one more
 *     copy                 into and out of the shared memory, and plain memory beside it
 *     send N RING WAIT     messages by examples/ivshmem/queue.h, RING is the peer; WAIT 1: asleep until rung
 *     receive N RING WAIT
 *
 * Addresses are those of QEMU's virt machine, which are ours, too.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

void *memcpy(void *to, const void *from, size_t bytes);
void *memset(void *to, int value, size_t bytes);
#include "../examples/ivshmem/queue.h"

typedef volatile uint32_t reg;

#define UART ((volatile uint8_t *)0x10000000)
#define ECAM 0x30000000ul
#define IMSIC_S 0x28000000u
#define BAR0 0x40000000u
#define BAR1 0x40010000u
#define BAR2 0x400000000ul

enum { EIID = 1, MESSAGE = 64, ORDER = 16, QUEUE_AT = 0x1000, PLAIN = 4 << 20, SAMPLES = 1 << 17 };

static reg *const registers = (reg *)(uintptr_t)BAR0;
static reg *const shared = (reg *)BAR2;
static size_t shared_bytes;
static uint32_t samples[SAMPLES];
/* Not at the same place of a page, by which loads would wait for stores that only look as if they were before them. */
static uint8_t plain[PLAIN + 4096] __attribute__((aligned(4096))), others[PLAIN + 4096] __attribute__((aligned(4096)));
static uint8_t *const other = others + 1024;
static char line[128];

__asm__(".section .text.entry, \"ax\"\n"
        ".globl _start\n_start:\n"
        ".option push\n.option norelax\nla gp, __global_pointer$\n.option pop\n"
        "la sp, stack_top\n"
        "la t0, __bss_start\nla t1, __bss_end\n"
        "1: sd zero, 0(t0)\nsd zero, 8(t0)\naddi t0, t0, 16\nbltu t0, t1, 1b\n"
        "call run\n"
        ".section .bss.stack, \"aw\", @nobits\n.balign 16\n.space 16384\nstack_top:\n"
        ".text\n");

void *memcpy(void *to, const void *from, size_t bytes)
{
    uint8_t *out = to;
    const uint8_t *in = from;
    if (!(((uintptr_t)out | (uintptr_t)in) & 7)) {
        uint64_t *o = (uint64_t *)out;
        const uint64_t *i = (const uint64_t *)in;
        for (; bytes >= 64; bytes -= 64, o += 8, i += 8) {
            uint64_t a = i[0], b = i[1], c = i[2], d = i[3], e = i[4], f = i[5], g = i[6], h = i[7];
            o[0] = a, o[1] = b, o[2] = c, o[3] = d, o[4] = e, o[5] = f, o[6] = g, o[7] = h;
        }
        for (; bytes >= 8; bytes -= 8)
            *o++ = *i++;
        out = (uint8_t *)o;
        in = (const uint8_t *)i;
    }
    while (bytes--)
        *out++ = *in++;
    return to;
}

void *memset(void *to, int value, size_t bytes)
{
    for (uint8_t *out = to; bytes--;)
        *out++ = (uint8_t)value;
    return to;
}

static void put(const char *text)
{
    for (; *text; text++) {
        while (!(UART[5] & 0x20)) {}
        UART[0] = (uint8_t)*text;
    }
}

static void put_number(const char *name, uint64_t value)
{
    char digits[24], *at = digits + sizeof digits - 1;
    *at = 0;
    do
        *--at = (char)('0' + value % 10);
    while (value /= 10);
    put(name);
    put(at);
}

static void read_line(void)
{
    size_t length = 0;
    for (;;) {
        while (!(UART[5] & 1)) {}
        char c = (char)UART[0];
        if (c == '\n' || c == '\r')
            break;
        if (length < sizeof line - 1)
            line[length++] = c;
    }
    line[length] = 0;
}

/* The number that is word `index` of the line. */
static uint64_t number(unsigned index)
{
    const char *at = line;
    for (; index; index--)
        for (at += *at == ' '; *at && *at != ' '; at++) {}
    uint64_t value = 0;
    for (at += *at == ' '; *at >= '0' && *at <= '9'; at++)
        value = value * 10 + (uint64_t)(*at - '0');
    return value;
}

static bool is(const char *word)
{
    const char *at = line;
    while (*word && *at == *word)
        at++, word++;
    return !*word && (!*at || *at == ' ');
}

static uint64_t ticks(void) /* of 100 ns */
{
    uint64_t value;
    __asm__ volatile("rdtime %0" : "=r"(value));
    return value;
}

static void imsic(unsigned which, uint64_t value)
{
    __asm__ volatile("csrw 0x150, %0\ncsrw 0x151, %1" ::"r"((uint64_t)which), "r"(value));
}

static bool claimed(void)
{
    uint64_t value;
    __asm__ volatile("csrrw %0, 0x15c, zero" : "=r"(value)::"memory");
    return value;
}

static void wait(bool spin)
{
    while (!claimed())
        if (!spin)
            __asm__ volatile("wfi" ::: "memory");
}

static reg *config(unsigned device, unsigned at)
{
    return (reg *)(ECAM + (device << 15) + at);
}

static bool set_up(void)
{
    unsigned device = 1;
    while (device < 32 && *config(device, 0) != 0x11101af4)
        device++;
    if (device == 32)
        return false;
    *config(device, 0x18) = ~0u;
    shared_bytes = -(size_t)(*config(device, 0x18) & ~15u) & 0xffffffff;
    *config(device, 0x10) = BAR0;
    *config(device, 0x14) = BAR1;
    *config(device, 0x18) = (uint32_t)BAR2;
    *config(device, 0x1c) = BAR2 >> 32;
    *config(device, 4) = 6;
    unsigned capability = *config(device, 0x34) & 0xfc;
    while (capability && (*config(device, capability) & 0xff) != 0x11)
        capability = *config(device, capability) >> 8 & 0xfc;
    if (!capability)
        return false;
    reg *vector = (reg *)(uintptr_t)(BAR1 + (*config(device, capability + 4) & ~7u));
    vector[0] = IMSIC_S;
    vector[1] = 0;
    vector[2] = EIID;
    vector[3] = 0;
    *config(device, capability) = *config(device, capability) | 0x80000000u;
    imsic(0x70, 1);         /* eidelivery */
    imsic(0x72, 0);         /* eithreshold */
    imsic(0xc0, 1u << EIID); /* eie0 */
    __asm__ volatile("csrs sie, %0" ::"r"(1ul << 9)); /* wfi ends by it; it never traps: sstatus.SIE is 0 */
    return true;
}

static void ring(uint64_t peer)
{
    registers[3] = (uint32_t)peer << 16;
}

static void report(uint32_t count)
{
    for (uint32_t gap = count / 2; gap; gap /= 2) /* Shell's sort */
        for (uint32_t i = gap; i < count; i++) {
            uint32_t value = samples[i], at = i;
            for (; at >= gap && samples[at - gap] > value; at -= gap)
                samples[at] = samples[at - gap];
            samples[at] = value;
        }
    put_number("p50 ", samples[count / 2]);
    put_number(" p99 ", samples[count - 1 - count / 100]);
}

static void measure(uint64_t peer, uint32_t count, bool by_memory, bool spin)
{
    count = count > SAMPLES ? SAMPLES : count;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t word = shared[0];
        uint64_t started = ticks();
        ring(peer);
        if (by_memory)
            while (shared[0] == word) {}
        else
            wait(spin);
        samples[i] = (uint32_t)(ticks() - started);
    }
    report(count);
}

static uint64_t mib(void *to, const void *from, size_t bytes)
{
    uint64_t started = ticks(), passed, done = 0;
    do {
        memcpy(to, from, bytes);
        __asm__ volatile("" ::: "memory");
        done += bytes;
    } while ((passed = ticks() - started) < 3000000);
    return done * 10000000 / passed >> 20;
}

static void copy(void)
{
    size_t bytes = (shared_bytes / 2 < PLAIN ? shared_bytes / 2 : PLAIN) - 4096;
    char *half = (char *)BAR2 + shared_bytes / 2 + 2048;
    memset(plain, 1, bytes); /* the host has given out all pages before it is measured */
    memset(other, 1, bytes);
    memset(half, 1, bytes);
    put_number("ram ", mib(plain, other, bytes));
    put_number(" into ", mib(half, other, bytes));
    put_number(" out ", mib(plain, half, bytes));
}

static void messages(bool sends, uint32_t count, uint64_t peer, bool sleeps)
{
    static struct ivq q;
    _Alignas(8) uint8_t message[MESSAGE] = {0};
    uint32_t length, bell, bad = 0, naps = 0;
    if (!ivq_open(&q, (char *)BAR2 + QUEUE_AT, shared_bytes - QUEUE_AT, !sends, ORDER, 0, true, (uint32_t)ticks())) {
        put(q.error);
        return;
    }
    while (ivq_connect(&q) != IVQ_OK) {}
    uint64_t started = ticks();
    for (uint32_t i = 0; i < count; i++) {
        enum ivq_result result;
        memcpy(message, &i, sizeof i);
        while ((result = sends ? ivq_put(&q, message, MESSAGE) : ivq_get(&q, message, MESSAGE, &length)) == IVQ_AGAIN)
            if (sleeps) {
                ivq_sleep(&q);
                result = sends ? ivq_put(&q, message, MESSAGE) : ivq_get(&q, message, MESSAGE, &length);
                if (result == IVQ_AGAIN) {
                    naps++;
                    wait(false);
                }
                ivq_wake(&q);
                if (result != IVQ_AGAIN)
                    break;
            }
        if (result != IVQ_OK) {
            put(result == IVQ_GONE ? "gone" : q.error);
            return;
        }
        if (sends ? ivq_must_ring(&q, &bell) : ivq_must_ring_for_room(&q, &bell))
            ring(peer);
        bad += !sends && *(uint32_t *)(void *)message != i;
    }
    uint64_t passed = ticks() - started;
    while (sends && ivq_drained(&q) == IVQ_AGAIN) {}
    ivq_leave(&q);
    put_number("rate ", (uint64_t)count * 10000000 / passed);
    put_number(" bad ", bad);
    put_number(" naps ", naps);
}

void run(void)
{
    if (!set_up())
        put("no ivshmem-doorbell with MSI-X\n");
    for (;; put("\n")) {
        put("ready\n");
        read_line();
        if (is("id")) {
            put_number("id ", registers[2]);
            put_number(" bytes ", shared_bytes);
        } else if (is("ping")) {
            measure(number(1), (uint32_t)number(2), false, number(3));
        } else if (is("answer")) {
            measure(number(1), (uint32_t)number(2), true, true);
        } else if (is("pong")) {
            do {
                wait(number(2));
                ring(number(1));
            } while (shared[1] != 1);
            put("stopped");
        } else if (is("copy")) {
            copy();
        } else if (is("send") || is("receive")) {
            messages(is("send"), (uint32_t)number(1), number(2), number(3));
        } else if (is("quit")) {
            *(reg *)0x100000 = 0x5555;
        }
    }
}
