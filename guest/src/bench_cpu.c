/* The CPU-bound part of `b`: sieve, CRC-32, quicksort, matrix product; the result of each is checked.
 *
 * Where the firmware lets S-mode read instret and the machine counts instructions in it, that count is used. QEMU
 * without -icount puts host ticks there; then the count below, measured with -icount (tests/peers checks it), is used.
 */
#include "bench.h"
#include "blk.h"
#include "console.h"
#include "heap.h"
#include "random.h"
#include "text.h"
#include "timer.h"

#define NOMINAL_INSTRUCTIONS 108540000UL

#define SIEVE_SIZE 500000U
#define SIEVE_PRIMES 41538U /* below 500 000 */
#define SORT_SIZE 65536U
#define MATRIX_SIZE 96U
#define CRC_SIZE KIB(256)

static u32 sieve(void)
{
    u8 *composite = heap_scratch();
    u32 primes = 0;
    memset(composite, 0, SIEVE_SIZE);
    for (u32 i = 2; i < SIEVE_SIZE; i++) {
        if (composite[i])
            continue;
        primes++;
        for (u32 j = 2 * i; j < SIEVE_SIZE; j += i)
            composite[j] = 1;
    }
    return primes;
}

static void quicksort(u64 *a, s64 low, s64 high)
{
    while (low < high) {
        u64 pivot = a[(low + high) / 2];
        s64 i = low, j = high;
        while (i <= j) {
            while (a[i] < pivot)
                i++;
            while (a[j] > pivot)
                j--;
            if (i <= j) {
                u64 t = a[i];
                a[i++] = a[j];
                a[j--] = t;
            }
        }
        quicksort(a, low, j);
        low = i;
    }
}

static bool sort(void)
{
    u64 *a = (u64 *)heap_scratch();
    for (u32 i = 0; i < SORT_SIZE; i++)
        a[i] = random_at(7, i);
    quicksort(a, 0, SORT_SIZE - 1);
    for (u32 i = 1; i < SORT_SIZE; i++)
        if (a[i - 1] > a[i])
            return false;
    return true;
}

/* A times its own transpose pattern; the trace of the product is known by construction. */
static bool matrix(void)
{
    u64 *a = (u64 *)heap_scratch(), *b = a + MATRIX_SIZE * MATRIX_SIZE, *c = b + MATRIX_SIZE * MATRIX_SIZE;
    u64 trace = 0, expected = 0;
    for (u32 i = 0; i < MATRIX_SIZE; i++)
        for (u32 j = 0; j < MATRIX_SIZE; j++) {
            a[i * MATRIX_SIZE + j] = i * 3 + j;
            b[j * MATRIX_SIZE + i] = i * 3 + j;
            expected += (u64)(i * 3 + j) * (i * 3 + j);
        }
    for (u32 i = 0; i < MATRIX_SIZE; i++)
        for (u32 j = 0; j < MATRIX_SIZE; j++) {
            u64 sum = 0;
            for (u32 k = 0; k < MATRIX_SIZE; k++)
                sum += a[i * MATRIX_SIZE + k] * b[k * MATRIX_SIZE + j];
            c[i * MATRIX_SIZE + j] = sum;
        }
    for (u32 i = 0; i < MATRIX_SIZE; i++)
        trace += c[i * MATRIX_SIZE + i];
    return trace == expected;
}

static bool crc(void)
{
    return checksum("123456789", 9) == 0xcbf43926 && checksum(heap_scratch(), CRC_SIZE) != 0;
}

void bench_cpu(void)
{
    bool ok = true;
    u64 instructions = instructions_retired(), start = time_now();
    for (unsigned i = 0; i < 4; i++)
        ok &= sieve() == SIEVE_PRIMES;
    u64 t_sieve = time_now();
    for (unsigned i = 0; i < 4; i++)
        ok &= crc();
    u64 t_crc = time_now();
    for (unsigned i = 0; i < 2; i++)
        ok &= sort();
    u64 t_sort = time_now();
    for (unsigned i = 0; i < 3; i++)
        ok &= matrix();
    u64 end = time_now();
    instructions = instructions_retired() - instructions;
    u64 us = MAX(1UL, time_to_ns(end - start) / 1000);
    bool counted = instructions > NOMINAL_INSTRUCTIONS / 100 * 95 && instructions < NOMINAL_INSTRUCTIONS / 100 * 105;
    bench_print("cpu_sieve", time_to_ns(t_sieve - start) / 1000, "us");
    bench_print("cpu_crc32", time_to_ns(t_crc - t_sieve) / 1000, "us");
    bench_print("cpu_sort", time_to_ns(t_sort - t_crc) / 1000, "us");
    bench_print("cpu_matrix", time_to_ns(end - t_sort) / 1000, "us");
    bench_print("cpu_instret", instructions, "instructions");
    bench_print("cpu_instructions", counted ? instructions : NOMINAL_INSTRUCTIONS, counted ? "counted" : "nominal");
    bench_print("cpu_time", us, "us");
    bench_print("cpu_mips", (counted ? instructions : NOMINAL_INSTRUCTIONS) / us, "MIPS");
    bench_print("cpu_check", ok, ok ? "ok" : "failed");
}
