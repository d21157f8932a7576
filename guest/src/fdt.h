/* What the device tree says about the machine. */
#ifndef FDT_H
#define FDT_H

#include "types.h"

#define MAX_HARTS 64

struct hart {
    u64 id;
    u32 intc_phandle; /* of its local interrupt controller */
};

struct window {
    u64 pci, cpu, size; /* PCI address, CPU address, length; size 0: no such window */
};

struct machine {
    u64 fdt, fdt_size;
    u64 hart;       /* the hart we run on */
    unsigned hart_count;
    struct hart harts[MAX_HARTS];
    u64 timebase_hz;
    u64 memory_base, memory_size;
    char model[64];
    char isa[256];
    char bootargs[512];
    struct {
        u64 base;
        u32 reg_shift, irq;
    } uart;
    struct {
        u64 base;
    } rtc, test;
    struct {
        u64 ecam, ecam_size;
        u32 first_bus, last_bus, msi_parent;
        struct window io, mem32, mem64;
    } pci;
    struct {
        u64 base; /* the S-level interrupt file of our hart */
        u32 phandle, ids;
    } imsic;
    struct {
        u64 base;
        u32 phandle, sources, hart_index;
    } aplic;
    struct {
        u64 base;
        u32 sources, context;
    } plic;
};

extern struct machine machine;

/* Fill `machine` from the tree at `address`; false when there is no valid tree. */
bool fdt_parse(u64 address, u64 hart);
/* Whether the ISA string has the single-letter extension, or the multi-letter one after an underscore. */
bool isa_has(const char *extension);

#endif
