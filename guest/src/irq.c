/* External interrupts. IMSIC: AIA 1.0 ch. 3; APLIC in MSI delivery mode: ch. 4; PLIC: RISC-V PLIC 1.0.
 * The only wired source used is the UART: its bytes are taken in the handler, so no other dispatch is needed. */
#include "irq.h"
#include "console.h"
#include "csr.h"
#include "fdt.h"
#include "trap.h"

/* Registers behind siselect (AIA table 2.3): eie registers exist at even numbers only on RV64. */
#define IMSIC_EIDELIVERY 0x70
#define IMSIC_EITHRESHOLD 0x72
#define IMSIC_EIE0 0xC0

#define APLIC_DOMAINCFG 0x0000
#define APLIC_DOMAINCFG_DM 0x004 /* deliver by message */
#define APLIC_DOMAINCFG_IE 0x100
#define APLIC_SOURCECFG 0x0004   /* of source 1 */
#define APLIC_SOURCECFG_LEVEL1 6
#define APLIC_SETIENUM 0x1EDC
#define APLIC_TARGET 0x3004      /* of source 1 */

#define PLIC_ENABLE(context) (0x2000 + 0x80 * (u64)(context))
#define PLIC_THRESHOLD(context) (0x200000 + 0x1000 * (u64)(context))
#define PLIC_CLAIM(context) (PLIC_THRESHOLD(context) + 4)

u64 irq_count[MAX_EIID];
static bool imsic;
static u32 next_eiid = 2; /* 1 is customarily the IPI */
static u32 uart_eiid;

static void imsic_write(u32 reg, u64 value)
{
    csr_write(CSR_SISELECT, reg);
    csr_write(CSR_SIREG, value);
}

void irq_init(void)
{
    if (machine.imsic.base) {
        guarded_begin();
        imsic_write(IMSIC_EITHRESHOLD, 0);
        imsic_write(IMSIC_EIDELIVERY, 1);
        imsic = guarded_end() == 0;
    } else if (machine.plic.base) {
        write32(machine.plic.base + PLIC_THRESHOLD(machine.plic.context), 0);
    }
    csr_set(CSR_SIE, 1UL << IRQ_S_EXTERNAL);
}

bool irq_has_msi(void) { return imsic && machine.pci.msi_parent; }
u64 irq_msi_address(void) { return machine.imsic.base; }
const char *irq_kind(void) { return imsic ? "imsic" : machine.plic.base ? "plic" : "none"; }

u32 irq_alloc(void)
{
    if (!imsic || next_eiid > machine.imsic.ids || next_eiid >= MAX_EIID)
        return 0;
    u32 id = next_eiid++;
    csr_write(CSR_SISELECT, IMSIC_EIE0 + id / 64 * 2);
    csr_set(CSR_SIREG, 1UL << id % 64);
    return id;
}

bool irq_enable_wired(u32 source)
{
    u64 base;
    if (source == 0)
        return false;
    if (imsic && (base = machine.aplic.base) && source <= machine.aplic.sources) {
        uart_eiid = irq_alloc();
        write32(base + APLIC_SOURCECFG + 4 * (source - 1), APLIC_SOURCECFG_LEVEL1);
        write32(base + APLIC_TARGET + 4 * (source - 1), machine.aplic.hart_index << 18 | uart_eiid);
        write32(base + APLIC_SETIENUM, source);
        write32(base + APLIC_DOMAINCFG, APLIC_DOMAINCFG_IE | APLIC_DOMAINCFG_DM);
        return true;
    }
    if (!imsic && (base = machine.plic.base)) {
        u64 enable = base + PLIC_ENABLE(machine.plic.context) + source / 32 * 4;
        write32(base + 4 * source, 1);
        write32(enable, read32(enable) | 1U << source % 32);
        return true;
    }
    return false;
}

static void handle_imsic(void)
{
    u64 top;
    while ((top = csr_swap(CSR_STOPEI, 0)) != 0) {
        u32 id = top >> 16 & 0x7ff;
        irq_count[id % MAX_EIID]++;
        if (id == uart_eiid)
            console_receive();
    }
}

static void handle_plic(void)
{
    u64 claim = machine.plic.base + PLIC_CLAIM(machine.plic.context);
    u32 source;
    while ((source = read32(claim)) != 0) {
        irq_count[source % MAX_EIID]++;
        console_receive();
        write32(claim, source);
    }
}

void irq_handle(void)
{
    if (imsic)
        handle_imsic();
    else if (machine.plic.base)
        handle_plic();
    else
        csr_clear(CSR_SIE, 1UL << IRQ_S_EXTERNAL);
}

void irq_print(void)
{
    for (unsigned i = 1; i < MAX_EIID; i++)
        if (irq_count[i])
            print(" %s%u%s=%lu", imsic ? "msi" : "source", i, imsic && i == uart_eiid ? "-uart" : "", irq_count[i]);
}
