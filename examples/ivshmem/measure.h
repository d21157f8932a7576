/* Times, and what is measured with them. */
#ifndef IVSHMEM_MEASURE_H
#define IVSHMEM_MEASURE_H

#include <stdlib.h>
#include <string.h>
#include <time.h>

/* Seconds since some moment. */
static inline double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static inline int by_size(const void *left, const void *right)
{
    double difference = *(const double *)left - *(const double *)right;
    return (difference > 0) - (difference < 0);
}

/* Sort `times`; return the one below which a hundredth part `part` of them lies. */
static inline double percentile(double *times, size_t count, unsigned part)
{
    qsort(times, count, sizeof *times, by_size);
    return times[(count - 1) * part / 100];
}

/* MiB each second that are copied, for half a second. */
static inline double copied(void *to, const void *from, size_t bytes)
{
    double started = now(), seconds;
    size_t done = 0;
    do {
        memcpy(to, from, bytes);
        __asm__ volatile("" ::: "memory");
        done += bytes;
    } while ((seconds = now() - started) < 0.5);
    return (double)done / seconds / (1 << 20);
}

#endif
