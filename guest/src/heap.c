/* A heap that only grows, from the end of the program to half the RAM or the device tree, whichever is lower. */
#include "heap.h"
#include "console.h"
#include "fdt.h"
#include "power.h"
#include "text.h"

static u64 next, limit;
static u8 *scratch;

static void *take(u64 size, u64 align)
{
    u64 at = ALIGN_UP(next, align);
    if (at + size > limit) {
        print("panic: out of memory size=%lu free=%lu\n", size, heap_free());
        power_off(98);
    }
    next = at + size;
    return (void *)at;
}

void *heap_alloc(u64 size, u64 align) { return memset(take(size, align), 0, size); }

void heap_init(void)
{
    extern char __end[];
    next = (u64)__end;
    limit = machine.memory_base + machine.memory_size;
    if (limit < next || limit - next > MIB(128))
        limit = next + MIB(128);
    if (machine.fdt >= next && machine.fdt < limit)
        limit = machine.fdt;
    scratch = take(SCRATCH_SIZE, 4096);
}

u8 *heap_scratch(void) { return scratch; }
u64 heap_free(void) { return limit - next; }
