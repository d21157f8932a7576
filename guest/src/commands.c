/* The prompt. A line may hold several commands separated by semicolons. */
#include "commands.h"
#include "console.h"
#include "irq.h"
#include "pci.h"
#include "power.h"
#include "text.h"
#include "timer.h"
#include "trap.h"
#include "virtio.h"

static void help(void)
{
    print("? help          m [ADDR [LEN]] memory   p PCI list        P BDF configuration space\n"
          "i interrupts    u U-mode test           f floating point  b [NAME] benchmarks\n"
          "d disks         d @N choose             d r SECTOR [COUNT] read\n"
          "d f flush       d s COUNT DEPTH random reads              d w|v SECTOR COUNT SEED write (destroys), verify\n"
          "h [SEED] [COUNT] hostile PCI accesses   H hostile rings   r reboot     q [CODE] power off\n");
}

void command_interrupts(void)
{
    print("interrupts: kind=%s timer=%lu soft=%lu external=%lu faults=%lu lost=%lu time=%lu", irq_kind(),
          trap_counts.timer, trap_counts.soft, trap_counts.external, trap_counts.guarded_faults,
          virtio_lost_interrupts, time_now());
    irq_print();
    print("\n");
}

static void run_one(const char *line)
{
    char letter = text_peek(&line);
    const char *args = line + 1;
    u64 code = 0;
    switch (letter) {
    case 0: break;
    case 'm': command_memory(args); break;
    case 'p':
        for (unsigned i = 0; i < pci_count; i++)
            pci_print(&pci_functions[i]);
        break;
    case 'P': command_pci_dump(args); break;
    case 'd': command_disk(args); break;
    case 'i': command_interrupts(); break;
    case 'b': command_bench(args); break;
    case 'h': command_hostile_pci(args); break;
    case 'H': command_hostile_rings(args); break;
    case 'u': command_user(); break;
    case 'f': command_float(); break;
    case 'r': power_reboot();
    case 'q':
        text_number(&args, &code);
        power_off((u32)code);
    default: help();
    }
}

/* Cut at semicolons and run each piece. */
static void run_line(const char *line, size_t size)
{
    char piece[160];
    for (size_t at = 0; at < size; at++) {
        size_t n = 0;
        for (; at < size && line[at] != ';'; at++)
            if (n + 1 < sizeof piece)
                piece[n++] = line[at];
        piece[n] = 0;
        run_one(piece);
    }
}

/* run="COMMANDS" or run=COMMANDS up to the end of the boot arguments. */
static void run_bootargs(const char *args)
{
    for (const char *p = args; *p; p++) {
        if (memcmp(p, "run=", MIN(strlen(p), 4UL)) != 0 || (p != args && p[-1] != ' '))
            continue;
        p += 4;
        char stop = *p == '"' ? '"' : 0;
        p += stop != 0;
        size_t n = 0;
        while (p[n] && p[n] != stop)
            n++;
        run_line(p, n);
        return;
    }
}

void commands_run(const char *bootargs)
{
    static char line[160];
    run_bootargs(bootargs);
    for (;;) {
        print("busvm> ");
        console_read_line(line, sizeof line);
        run_line(line, strlen(line));
    }
}
