/* The embedded guest: report what the machine is, try its devices, then obey one-letter commands. */
#include "commands.h"
#include "console.h"
#include "devices.h"
#include "fdt.h"
#include "heap.h"
#include "irq.h"
#include "pci.h"
#include "power.h"
#include "rtc.h"
#include "sbi.h"
#include "timer.h"
#include "trap.h"

void main(u64 hart, u64 tree);

static void print_machine(void)
{
    print("machine: model=\"%s\" harts=%u hart=%lu timebase=%lu isa=%s\n", machine.model, machine.hart_count,
          machine.hart, machine.timebase_hz, machine.isa);
    print("memory: base=0x%lx size=0x%lx mib=%lu fdt=0x%lx\n", machine.memory_base, machine.memory_size,
          machine.memory_size >> 20, machine.fdt);
    print("platform: uart=0x%lx rtc=0x%lx test=0x%lx interrupts=%s imsic=0x%lx ids=%u aplic=0x%lx plic=0x%lx\n",
          machine.uart.base, machine.rtc.base, machine.test.base, irq_kind(), machine.imsic.base, machine.imsic.ids,
          machine.aplic.base, machine.plic.base);
    print("pci: ecam=0x%lx buses=%u-%u io=0x%lx/0x%lx mem32=0x%lx/0x%lx mem64=0x%lx/0x%lx msi=%u\n", machine.pci.ecam,
          machine.pci.first_bus, machine.pci.last_bus, machine.pci.io.cpu, machine.pci.io.size, machine.pci.mem32.cpu,
          machine.pci.mem32.size, machine.pci.mem64.cpu, machine.pci.mem64.size, (u32)irq_has_msi());
}

static unsigned timer_report(void)
{
    u64 late = timer_check();
    if (late == TIMER_NEVER)
        print("timer: kind=%s error=no-interrupt\n", timer_has_sstc() ? "sstc" : "sbi");
    else
        print("timer: kind=%s late_ns=%lu\n", timer_has_sstc() ? "sstc" : "sbi", late);
    return late == TIMER_NEVER;
}

static void report(u64 start, u64 first)
{
    unsigned exercised = 0, failures = 0;
    print_machine();
    failures += sbi_report();
    failures += rtc_report();
    failures += timer_report();
    failures += pci_enumerate();
    for (unsigned i = 0; i < pci_count; i++)
        pci_print(&pci_functions[i]);
    devices_report(&exercised, &failures);
    if (machine.bootargs[0])
        print("bootargs: %s\n", machine.bootargs);
    print("cost: time_us=%lu instret=%lu\n", time_to_ns(time_now() - start) / 1000, instructions_retired() - first);
    print("report: %u functions, %u devices exercised, %u failures\n", pci_count, exercised, failures);
}

void main(u64 hart, u64 tree)
{
    u64 start = time_now(), first = instructions_retired();
    bool has_tree = fdt_parse(tree, hart);
    irq_init();
    timer_init();
    console_init();
    print("\nbusvm embedded guest\n");
    if (!has_tree) {
        print("panic: no valid device tree at 0x%lx\n", tree);
        power_off(97);
    }
    heap_init();
    report(start, first);
    commands_run(machine.bootargs);
}
