/* Traps: interrupts, guarded accesses that may fault, U-mode. */
#ifndef TRAP_H
#define TRAP_H

#include "types.h"

struct trap_frame {
    u64 x[32]; /* x[0] unused */
    u64 sepc, sstatus;
};

enum {
    CAUSE_FETCH_ACCESS = 1,
    CAUSE_ILLEGAL = 2,
    CAUSE_LOAD_MISALIGNED = 4,
    CAUSE_LOAD_ACCESS = 5,
    CAUSE_STORE_MISALIGNED = 6,
    CAUSE_STORE_ACCESS = 7,
    CAUSE_USER_ECALL = 8,
    CAUSE_FETCH_PAGE = 12,
    CAUSE_LOAD_PAGE = 13,
    CAUSE_STORE_PAGE = 15,
};

extern struct trap_counts {
    u64 soft, timer, external, guarded_faults;
} trap_counts;

/* Set when a program runs in U-mode: handles its exceptions; returns true when it has ended. */
extern bool (*trap_user_handler)(struct trap_frame *frame, u64 cause, u64 tval);

/* Loads and stores of 1, 2, 4 or 8 bytes at any address; false when they fault. */
bool guarded_read(u64 address, unsigned size, u64 *value);
bool guarded_write(u64 address, unsigned size, u64 value);

/* Between begin and end an exception skips the faulting instruction; end returns the last cause, or 0. */
void guarded_begin(void);
u64 guarded_end(void);

/* From start.S: enter a program in U-mode; returns its a0 when trap_user_handler says it has ended. */
u64 user_run(u64 entry, u64 stack, u64 argument);
u64 trap(struct trap_frame *frame);

#endif
