/* SBI calls (SBI 2.0 ch. 3: a7 extension, a6 function, result in a0, a1) and a short test of each extension. */
#include "sbi.h"
#include "console.h"
#include "fdt.h"
#include "timer.h"
#include "trap.h"

struct sbi_result sbi_call(u64 extension, u64 function, u64 arg0, u64 arg1, u64 arg2)
{
    register u64 a0 __asm__("a0") = arg0;
    register u64 a1 __asm__("a1") = arg1;
    register u64 a2 __asm__("a2") = arg2;
    register u64 a3 __asm__("a3") = 0;
    register u64 a4 __asm__("a4") = 0;
    register u64 a6 __asm__("a6") = function;
    register u64 a7 __asm__("a7") = extension;
    __asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(a2), "r"(a3), "r"(a4), "r"(a6), "r"(a7) : "memory");
    return (struct sbi_result){(s64)a0, a1};
}

bool sbi_has(u64 extension)
{
    struct sbi_result r = sbi_call(SBI_EXT_BASE, 3, extension, 0, 0);
    return r.error == 0 && r.value != 0;
}

void sbi_reset(u32 type, u32 reason)
{
    sbi_call(SBI_EXT_SRST, 0, type, reason, 0);
}

/* IPI to this hart (SBI 2.0 §7.1): the software interrupt must be taken. */
static bool ipi_works(void)
{
    u64 before = trap_counts.soft;
    if (sbi_call(SBI_EXT_IPI, 0, 1, machine.hart, 0).error)
        return false;
    for (u64 end = time_now() + time_from_us(100000); trap_counts.soft == before && time_now() < end;)
        cpu_take_interrupts();
    return trap_counts.soft != before;
}

/* Remote FENCE.I and SFENCE.VMA to this hart (SBI 2.0 §8.1, §8.2). */
static bool rfence_works(void)
{
    return sbi_call(SBI_EXT_RFENCE, 0, 1, machine.hart, 0).error == 0 &&
           sbi_call(SBI_EXT_RFENCE, 1, 1, machine.hart, 0).error == 0;
}

/* Start every other hart through HSM (§9.1); each counts itself and stops. Returns how many answered. */
static unsigned start_other_harts(void)
{
    extern volatile u64 harts_answered;
    extern char second_hart_entry[];
    unsigned started = 0;
    harts_answered = 0;
    for (unsigned i = 0; i < machine.hart_count; i++)
        if (machine.harts[i].id != machine.hart &&
            sbi_call(SBI_EXT_HSM, 0, machine.harts[i].id, (u64)second_hart_entry, 0).error == 0)
            started++;
    for (u64 end = time_now() + time_from_us(500000); harts_answered < started && time_now() < end;)
        ;
    return (unsigned)harts_answered;
}

unsigned sbi_report(void)
{
    unsigned failures = 0;
    u64 spec = sbi_call(SBI_EXT_BASE, 0, 0, 0, 0).value;
    print("sbi: spec=%lu.%lu implementation=%lu version=0x%lx extensions=", (spec >> 24) & 0x7f, spec & 0xffffff,
          sbi_call(SBI_EXT_BASE, 1, 0, 0, 0).value, sbi_call(SBI_EXT_BASE, 2, 0, 0, 0).value);
    static const struct {
        u64 id;
        const char *name;
    } known[] = {{SBI_EXT_TIME, "time"}, {SBI_EXT_IPI, "ipi"},   {SBI_EXT_RFENCE, "rfence"}, {SBI_EXT_HSM, "hsm"},
                 {SBI_EXT_SRST, "srst"}, {SBI_EXT_DBCN, "dbcn"}, {SBI_EXT_PMU, "pmu"}};
    const char *separator = "";
    for (unsigned i = 0; i < ARRAY_SIZE(known); i++)
        if (sbi_has(known[i].id)) {
            print("%s%s", separator, known[i].name);
            separator = ",";
        }
    if (sbi_has(SBI_EXT_IPI)) {
        bool ok = ipi_works();
        failures += !ok;
        print(" ipi=%s", ok ? "ok" : "failed");
    }
    if (sbi_has(SBI_EXT_RFENCE)) {
        bool ok = rfence_works();
        failures += !ok;
        print(" rfence=%s", ok ? "ok" : "failed");
    }
    unsigned online = 1;
    if (sbi_has(SBI_EXT_HSM)) {
        online += start_other_harts();
        failures += online != machine.hart_count;
    }
    print(" harts_online=%u\n", online);
    return failures;
}
