/* The supervisor timer: stimecmp where Sstc is there and enabled, SBI TIME (SBI 2.0 ch. 6) otherwise.
 * Interrupts are off in S-mode except inside cpu_idle and cpu_take_interrupts: no handler races with other code. */
#include "timer.h"
#include "fdt.h"
#include "sbi.h"
#include "trap.h"

static bool sstc;
static u64 appointment = TIMER_NEVER;

u64 time_from_us(u64 us) { return us * (machine.timebase_hz / 1000) / 1000; }
u64 time_to_ns(u64 ticks) { return ticks * 1000000 / (machine.timebase_hz / 1000); }
bool timer_has_sstc(void) { return sstc; }

u64 instructions_retired(void)
{
    u64 v = 0;
    guarded_begin();
    __asm__ volatile("csrr %0, instret" : "+r"(v));
    return guarded_end() ? 0 : v;
}

static void set(u64 when)
{
    appointment = when;
    if (sstc)
        csr_write(CSR_STIMECMP, when);
    else
        sbi_call(SBI_EXT_TIME, 0, when, 0, 0);
}

void timer_init(void)
{
    guarded_begin();
    csr_write(CSR_STIMECMP, TIMER_NEVER); /* faults without Sstc, or with menvcfg.STCE clear */
    sstc = isa_has("sstc") & (guarded_end() == 0);
    set(TIMER_NEVER);
    csr_set(CSR_SIE, 1UL << IRQ_S_TIMER | 1UL << IRQ_S_SOFT);
}

void timer_arm(u64 when)
{
    if (when < appointment)
        set(when);
}

void timer_fired(void) { set(TIMER_NEVER); }

u64 timer_check(void)
{
    u64 count = trap_counts.timer, when = time_now() + time_from_us(1000);
    timer_arm(when);
    while (trap_counts.timer == count && time_now() < when + time_from_us(200000))
        cpu_idle();
    return trap_counts.timer == count ? TIMER_NEVER : time_to_ns(time_now() - when);
}

void cpu_take_interrupts(void)
{
    csr_set(CSR_SSTATUS, SSTATUS_SIE);
    csr_clear(CSR_SSTATUS, SSTATUS_SIE);
}

void cpu_idle(void)
{
    __asm__ volatile("wfi" ::: "memory"); /* resumes on a pending interrupt though SIE is clear */
    cpu_take_interrupts();
}
