/* `b`: figures for the machine's own benchmark suite, one line each: bench NAME value unit. */
#include "bench.h"
#include "blk.h"
#include "commands.h"
#include "console.h"
#include "heap.h"
#include "text.h"
#include "timer.h"

#define MAX_SAMPLES 1000

static u32 samples[MAX_SAMPLES]; /* in ticks of the time CSR */

void bench_print(const char *name, u64 value, const char *unit) { print("bench %s %lu %s\n", name, value, unit); }

static void sort_samples(unsigned count)
{
    for (unsigned gap = count / 2; gap; gap /= 2)
        for (unsigned i = gap; i < count; i++) {
            u32 v = samples[i];
            unsigned j = i;
            for (; j >= gap && samples[j - gap] > v; j -= gap)
                samples[j] = samples[j - gap];
            samples[j] = v;
        }
}

static void print_percentiles(const char *p50, const char *p99, unsigned count)
{
    if (!count)
        return;
    sort_samples(count);
    bench_print(p50, time_to_ns(samples[count / 2]), "ns");
    bench_print(p99, time_to_ns(samples[count * 99 / 100]), "ns");
}

/* Registers without read side effects: busvm serves them from the device page, no message is sent. */
static void bench_page_reads(const struct virtio *v)
{
    const unsigned count = 10000;
    u64 config = pci_config_address(v->pci->bdf, PCI_VENDOR_ID), start = time_now();
    for (unsigned i = 0; i < count; i++)
        read16(config);
    bench_print("config_read", time_to_ns(time_now() - start) / count, "ns");
    start = time_now();
    for (unsigned i = 0; i < count; i++)
        read16(v->common + NUM_QUEUES);
    bench_print("page_read", time_to_ns(time_now() - start) / count, "ns");
}

/* The ISR status byte clears as it is read (virtio 1.2 §4.1.4.5): the device itself must answer. */
static void bench_side_effect_reads(const struct virtio *v)
{
    u64 start = time_now();
    for (unsigned i = 0; i < MAX_SAMPLES; i++) {
        u64 before = time_now();
        read8(v->isr);
        samples[i] = (u32)(time_now() - before);
    }
    bench_print("side_effect_read_mean", time_to_ns(time_now() - start) / MAX_SAMPLES, "ns");
    print_percentiles("side_effect_read_p50", "side_effect_read_p99", MAX_SAMPLES);
}

static void bench_round_trip(struct disk *d)
{
    unsigned count = 0;
    for (; count < MAX_SAMPLES; count++) {
        u64 before = time_now();
        if (disk_transfer(d, 0, VIRTIO_BLK_T_IN, 0, heap_scratch(), SECTOR) != VIRTIO_BLK_S_OK)
            break;
        samples[count] = (u32)(time_now() - before);
    }
    print_percentiles("blk_round_trip_p50", "blk_round_trip_p99", count);
}

static void bench_sequential(struct disk *d)
{
    const u64 chunk = KIB(128) / SECTOR;
    u64 total = MIN(d->capacity, MIB(32) / SECTOR) / chunk * chunk, done = 0, start = time_now();
    if (!total)
        return;
    while (done < total &&
           disk_transfer(d, 0, VIRTIO_BLK_T_IN, done, heap_scratch(), (u32)(chunk * SECTOR)) == VIRTIO_BLK_S_OK)
        done += chunk;
    u64 us = MAX(1UL, time_to_ns(time_now() - start) / 1000);
    bench_print("blk_sequential_read", done * SECTOR / us, "MB/s");
}

void command_bench(const char *args)
{
    char only = text_peek(&args);
    if (!only || only == 'c')
        bench_cpu();
    if (disk_count && (!only || only == 'r')) {
        bench_page_reads(&disks[0]->v);
        bench_side_effect_reads(&disks[0]->v);
    }
    if (disk_count && (!only || only == 'd')) {
        bench_round_trip(disks[0]);
        bench_sequential(disks[0]);
    }
    print("bench: done\n");
}
