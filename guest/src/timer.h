/* Time: the time CSR, the supervisor timer (Sstc or SBI), sleeping. */
#ifndef TIMER_H
#define TIMER_H

#include "csr.h"
#include "types.h"

#define TIMER_NEVER (~0UL)

static inline u64 time_now(void) { return csr_read(CSR_TIME); }
u64 time_from_us(u64 us);
u64 time_to_ns(u64 ticks);
/* Instructions retired, or 0 where the firmware does not let S-mode read them. */
u64 instructions_retired(void);

void timer_init(void);
/* Interrupt at `when` at the latest; an earlier appointment stands. */
void timer_arm(u64 when);
void timer_fired(void);
bool timer_has_sstc(void);
/* Arm the timer a millisecond ahead and sleep; returns the lateness in ns, or TIMER_NEVER when it never came. */
u64 timer_check(void);

/* Sleep until an interrupt is pending, take it, and return with interrupts off again. */
void cpu_idle(void);
void cpu_take_interrupts(void);

#endif
