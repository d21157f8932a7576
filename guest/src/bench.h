/* Benchmarks. */
#ifndef BENCH_H
#define BENCH_H

#include "types.h"

void bench_print(const char *name, u64 value, const char *unit);
/* About a hundred million integer instructions. */
void bench_cpu(void);

#endif
