/* Memory of our own: everything after the program, given out once and never taken back. */
#ifndef HEAP_H
#define HEAP_H

#include "types.h"

#define SCRATCH_SIZE MIB(1)

void heap_init(void);
/* Zeroed memory; `align` is a power of two. Running out ends the run. */
void *heap_alloc(u64 size, u64 align);
/* One megabyte, 4 KiB aligned, that any command may overwrite. */
u8 *heap_scratch(void);
u64 heap_free(void);

#endif
