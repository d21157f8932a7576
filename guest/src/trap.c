/* The trap handler (privileged specification, §4.1). Exceptions outside guarded accesses and U-mode are our own bugs,
 * or the machine's: they are printed and end the run with exit code 99. */
#include "trap.h"
#include "console.h"
#include "csr.h"
#include "irq.h"
#include "power.h"
#include "timer.h"

struct trap_counts trap_counts;
bool (*trap_user_handler)(struct trap_frame *frame, u64 cause, u64 tval);

static volatile bool guarded;
static volatile u64 guarded_cause;

static void interrupt(u64 which)
{
    switch (which) {
    case IRQ_S_SOFT:
        trap_counts.soft++;
        csr_clear(CSR_SIP, 1UL << IRQ_S_SOFT);
        break;
    case IRQ_S_TIMER:
        trap_counts.timer++;
        timer_fired();
        break;
    case IRQ_S_EXTERNAL:
        trap_counts.external++;
        irq_handle();
        break;
    default:
        csr_clear(CSR_SIE, 1UL << which);
    }
}

static void die(const struct trap_frame *f, u64 cause, u64 tval)
{
    print("\npanic: scause=0x%lx stval=0x%lx sepc=0x%lx sstatus=0x%lx", cause, tval, f->sepc, f->sstatus);
    for (unsigned i = 1; i < 32; i++)
        print("%sx%u=0x%lx", i % 4 == 1 ? "\n" : " ", i, f->x[i]);
    print("\n");
    power_off(99);
}

u64 trap(struct trap_frame *f)
{
    u64 cause, tval;
    __asm__ volatile("csrr %0, scause" : "=r"(cause));
    __asm__ volatile("csrr %0, stval" : "=r"(tval));
    if (cause >> 63) {
        interrupt(cause & 0xff);
        return 0;
    }
    if (!(f->sstatus & SSTATUS_SPP) && trap_user_handler)
        return trap_user_handler(f, cause, tval);
    if (!guarded)
        die(f, cause, tval);
    trap_counts.guarded_faults++;
    guarded_cause = cause ? cause : 64;
    f->sepc += (read16(f->sepc) & 3) == 3 ? 4 : 2;
    return 0;
}

void guarded_begin(void)
{
    guarded_cause = 0;
    guarded = true;
}

u64 guarded_end(void)
{
    guarded = false;
    return guarded_cause;
}

/* Written in assembly so that one access is exactly one instruction, whatever the address's alignment. */
bool guarded_read(u64 address, unsigned size, u64 *value)
{
    u64 v = 0;
    guarded_begin();
    switch (size) {
    case 1: __asm__ volatile("lbu %0, 0(%1)" : "+r"(v) : "r"(address) : "memory"); break;
    case 2: __asm__ volatile("lhu %0, 0(%1)" : "+r"(v) : "r"(address) : "memory"); break;
    case 4: __asm__ volatile("lwu %0, 0(%1)" : "+r"(v) : "r"(address) : "memory"); break;
    default: __asm__ volatile("ld %0, 0(%1)" : "+r"(v) : "r"(address) : "memory"); break;
    }
    *value = v;
    return guarded_end() == 0;
}

bool guarded_write(u64 address, unsigned size, u64 value)
{
    guarded_begin();
    switch (size) {
    case 1: __asm__ volatile("sb %0, 0(%1)" ::"r"(value), "r"(address) : "memory"); break;
    case 2: __asm__ volatile("sh %0, 0(%1)" ::"r"(value), "r"(address) : "memory"); break;
    case 4: __asm__ volatile("sw %0, 0(%1)" ::"r"(value), "r"(address) : "memory"); break;
    default: __asm__ volatile("sd %0, 0(%1)" ::"r"(value), "r"(address) : "memory"); break;
    }
    return guarded_end() == 0;
}
