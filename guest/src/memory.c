/* `m` and `P`: memory and configuration space, looked at through guarded reads. */
#include "commands.h"
#include "console.h"
#include "fdt.h"
#include "heap.h"
#include "pci.h"
#include "random.h"
#include "text.h"
#include "trap.h"

/* Sixteen bytes a line; an access that faults shows as --. */
static void hexdump(u64 address, u64 length)
{
    for (u64 at = 0; at < length; at++) {
        u64 value;
        if (at % 16 == 0)
            print("%s%lx:", at ? "\n" : "", address + at);
        if (guarded_read(address + at, 1, &value))
            print(" %02x", (u32)value);
        else
            print(" --");
    }
    print("\n");
}

/* Walking ones, then pseudo-random words read back in every size; returns the number of errors. */
static u64 test_pattern(volatile u64 *words, u64 count)
{
    u64 errors = 0;
    for (unsigned bit = 0; bit < 64; bit++) {
        words[bit] = 1UL << bit;
        errors += words[bit] != 1UL << bit;
    }
    for (u64 i = 0; i < count; i++)
        words[i] = random_at(1, i);
    for (u64 i = 0; i < count; i++) {
        u64 expected = random_at(1, i);
        volatile u8 *bytes = (volatile u8 *)&words[i];
        errors += words[i] != expected || bytes[7] != (u8)(expected >> 56) ||
                  *(volatile u32 *)(bytes + 4) != (u32)(expected >> 32) ||
                  *(volatile u16 *)(bytes + 2) != (u16)(expected >> 16);
    }
    return errors;
}

void command_memory(const char *args)
{
    u64 address, length = 64;
    if (text_number(&args, &address)) {
        text_number(&args, &length);
        hexdump(address, MIN(length, 4096UL));
        return;
    }
    u64 size = KIB(256);
    u64 errors = test_pattern((volatile u64 *)heap_scratch(), size / 8);
    print("memtest: base=0x%lx size=0x%lx heap_free=0x%lx test_address=0x%lx test_bytes=%lu errors=%lu result=%s\n",
          machine.memory_base, machine.memory_size, heap_free(), (u64)heap_scratch(), size, errors,
          errors ? "failed" : "ok");
}

void command_pci_dump(const char *args)
{
    u16 bdf;
    if (!pci_parse_bdf(&args, &bdf) || (bdf >> 8) > machine.pci.last_bus) {
        print("pci: error=no-such-function\n");
        return;
    }
    u64 base = pci_config_address(bdf, 0);
    for (u32 at = 0; at < 256; at += 16) {
        print("%02x:", at);
        for (u32 i = 0; i < 16; i += 4)
            print(" %08x", read32(base + at + i));
        print("\n");
    }
}
