/* Power: SBI SRST (SBI 2.0 ch. 10) and the sifive_test register (0x5555 pass, 0x3333 fail with the code above it). */
#include "power.h"
#include "console.h"
#include "fdt.h"
#include "sbi.h"
#include "trap.h"

#define TEST_FAIL 0x3333

static void halt(void) __attribute__((noreturn));
static void halt(void)
{
    print("power: the machine stays on\n");
    for (;;)
        __asm__ volatile("wfi");
}

void power_off(u32 code)
{
    fence_all();
    if (code && machine.test.base)
        guarded_write(machine.test.base, 4, code << 16 | TEST_FAIL);
    sbi_reset(0, code ? 1 : 0);
    sbi_call(8, 0, 0, 0, 0); /* legacy shutdown */
    halt();
}

void power_reboot(void)
{
    fence_all();
    sbi_reset(1, 0);
    halt();
}
