/* Flattened device tree (Devicetree specification 0.4, ch. 5): one walk, each node judged when it ends. */
#include "fdt.h"
#include "csr.h"
#include "text.h"

enum { FDT_MAGIC = 0xd00dfeed, FDT_BEGIN_NODE = 1, FDT_END_NODE = 2, FDT_PROP = 3, FDT_NOP = 4, FDT_END = 9 };

struct machine machine;

static u32 be32(const void *p)
{
    const u8 *b = p;
    return (u32)b[0] << 24 | (u32)b[1] << 16 | (u32)b[2] << 8 | b[3];
}

struct property {
    const char *data;
    u32 size;
};

/* The properties we look at, in the order of struct node's array. */
enum { COMPATIBLE, DEVICE_TYPE, STATUS, REG, RANGES, PHANDLE, INTERRUPTS, INTERRUPTS_EXTENDED, MSI_PARENT, NUM_IDS,
       GUEST_INDEX_BITS, NUM_SOURCES, NDEV, BUS_RANGE, REG_SHIFT, ISA, ISA_BASE, ISA_EXTENSIONS, BOOTARGS, MODEL,
       TIMEBASE, CHILDREN, PROPERTIES };
static const char *const property_names[PROPERTIES] = {
    "compatible", "device_type", "status", "reg", "ranges", "phandle", "interrupts", "interrupts-extended",
    "msi-parent", "riscv,num-ids", "riscv,guest-index-bits", "riscv,num-sources", "riscv,ndev", "bus-range",
    "reg-shift", "riscv,isa", "riscv,isa-base", "riscv,isa-extensions", "bootargs", "model", "timebase-frequency",
    "riscv,children"};

struct node {
    const char *name;
    u32 address_cells, size_cells; /* for its children */
    struct property p[PROPERTIES];
};

/* Interrupt controllers refer to harts that may come later in the tree: judged after the walk. */
static struct {
    struct property imsic_extended, plic_extended;
    u32 imsic_guest_bits;
} later;

static u64 cells(const struct property *p, u32 at, u32 count)
{
    u64 value = 0;
    for (; count--; at++)
        if (at * 4 + 4 <= p->size)
            value = value << 32 | be32(p->data + (u64)at * 4);
    return value;
}

static u32 cell(const struct property *p, u32 at) { return (u32)cells(p, at, 1); }

static bool is_compatible(const struct node *n, const char *what)
{
    return text_list_has(n->p[COMPATIBLE].data, n->p[COMPATIBLE].size, what);
}

static void copy_string(char *to, size_t room, const struct property *p)
{
    size_t n = MIN(p->size, (u32)room - 1);
    memcpy(to, p->data, n);
    to[n] = 0;
}

static void take_hart(const struct node *n)
{
    if (machine.hart_count == MAX_HARTS)
        return;
    machine.harts[machine.hart_count++].id = cells(&n->p[REG], 0, n->p[REG].size / 4);
    if (machine.isa[0])
        return;
    if (n->p[ISA].size) {
        copy_string(machine.isa, sizeof machine.isa, &n->p[ISA]);
        return;
    }
    copy_string(machine.isa, sizeof machine.isa, &n->p[ISA_BASE]);
    size_t used = strlen(machine.isa);
    const struct property *list = &n->p[ISA_EXTENSIONS];
    for (u32 at = 0; at < list->size && used + 2 < sizeof machine.isa; at++) {
        const char *word = list->data + at;
        if (word[0] && (at == 0 || !word[-1]) && word[1] && used > 5)
            machine.isa[used++] = '_'; /* before a name of several letters */
        if (word[0] && !(at == 0 && word[0] == 'i'))
            machine.isa[used++] = word[0];
    }
    machine.isa[used] = 0;
}

static void take_pci(const struct node *n, const struct node *parent)
{
    machine.pci.ecam = cells(&n->p[REG], 0, parent->address_cells);
    machine.pci.ecam_size = cells(&n->p[REG], parent->address_cells, parent->size_cells);
    machine.pci.first_bus = cell(&n->p[BUS_RANGE], 0);
    machine.pci.last_bus = cell(&n->p[BUS_RANGE], 1);
    machine.pci.msi_parent = cell(&n->p[MSI_PARENT], 0);
    u32 step = 3 + parent->address_cells + 2;
    for (u32 at = 0; (at + step) * 4 <= n->p[RANGES].size; at += step) {
        struct window w = {cells(&n->p[RANGES], at + 1, 2), cells(&n->p[RANGES], at + 3, parent->address_cells),
                           cells(&n->p[RANGES], at + 3 + parent->address_cells, 2)};
        switch (cell(&n->p[RANGES], at) >> 24 & 3) { /* IEEE 1275 PCI binding: ss bits of phys.hi */
        case 1: machine.pci.io = w; break;
        case 2: machine.pci.mem32 = w; break;
        case 3: machine.pci.mem64 = w; break;
        }
    }
}

/* Only the supervisor's interrupt files concern us: those wired to local interrupt 9. */
static void take_imsic(const struct node *n, u64 base)
{
    if (cell(&n->p[INTERRUPTS_EXTENDED], 1) != IRQ_S_EXTERNAL)
        return;
    machine.imsic.base = base;
    machine.imsic.phandle = cell(&n->p[PHANDLE], 0);
    machine.imsic.ids = cell(&n->p[NUM_IDS], 0);
    later.imsic_extended = n->p[INTERRUPTS_EXTENDED];
    later.imsic_guest_bits = cell(&n->p[GUEST_INDEX_BITS], 0);
}

static void end_node(const struct node *n, const struct node *parent, unsigned depth)
{
    u64 base = cells(&n->p[REG], 0, parent->address_cells);
    bool enabled = !n->p[STATUS].size || text_equal(n->p[STATUS].data, "okay");
    if (depth == 0)
        copy_string(machine.model, sizeof machine.model, &n->p[MODEL]);
    else if (depth == 1 && text_equal(n->name, "chosen"))
        copy_string(machine.bootargs, sizeof machine.bootargs, &n->p[BOOTARGS]);
    else if (depth == 1 && text_equal(n->name, "cpus"))
        machine.timebase_hz = cell(&n->p[TIMEBASE], 0);
    else if (text_list_has(n->p[DEVICE_TYPE].data, n->p[DEVICE_TYPE].size, "memory") && !machine.memory_size) {
        machine.memory_base = base;
        machine.memory_size = cells(&n->p[REG], parent->address_cells, parent->size_cells);
    } else if (!enabled) {
        return;
    } else if (text_list_has(n->p[DEVICE_TYPE].data, n->p[DEVICE_TYPE].size, "cpu")) {
        take_hart(n);
    } else if (is_compatible(n, "riscv,cpu-intc") && machine.hart_count < MAX_HARTS) {
        machine.harts[machine.hart_count].intc_phandle = cell(&n->p[PHANDLE], 0); /* its cpu node ends next */
    } else if (is_compatible(n, "ns16550a") && !machine.uart.base) {
        machine.uart.base = base;
        machine.uart.reg_shift = cell(&n->p[REG_SHIFT], 0);
        machine.uart.irq = cell(&n->p[INTERRUPTS], 0);
    } else if (is_compatible(n, "google,goldfish-rtc")) {
        machine.rtc.base = base;
    } else if (is_compatible(n, "sifive,test0") || is_compatible(n, "sifive,test1")) {
        machine.test.base = base;
    } else if (is_compatible(n, "pci-host-ecam-generic") && !machine.pci.ecam) {
        take_pci(n, parent);
    } else if (is_compatible(n, "riscv,imsics")) {
        take_imsic(n, base);
    } else if (is_compatible(n, "riscv,aplic") && !n->p[CHILDREN].size) { /* a leaf domain is the supervisor's */
        machine.aplic.base = base;
        machine.aplic.phandle = cell(&n->p[PHANDLE], 0);
        machine.aplic.sources = cell(&n->p[NUM_SOURCES], 0);
    } else if (is_compatible(n, "riscv,plic0") || is_compatible(n, "sifive,plic-1.0.0")) {
        machine.plic.base = base;
        machine.plic.sources = cell(&n->p[NDEV], 0);
        later.plic_extended = n->p[INTERRUPTS_EXTENDED];
    }
}

/* Position of (our hart's local controller, S external interrupt) in an interrupts-extended list. */
static u32 supervisor_position(const struct property *extended)
{
    u32 ours = 0;
    for (unsigned i = 0; i < machine.hart_count; i++)
        if (machine.harts[i].id == machine.hart)
            ours = machine.harts[i].intc_phandle;
    for (u32 at = 0; at * 8 + 8 <= extended->size; at++)
        if (cell(extended, at * 2) == ours && cell(extended, at * 2 + 1) == IRQ_S_EXTERNAL)
            return at;
    return 0;
}

bool fdt_parse(u64 address, u64 hart)
{
    const u8 *tree = (const u8 *)address;
    machine.hart = hart;
    machine.timebase_hz = 10000000;
    if (!address || be32(tree) != FDT_MAGIC)
        return false;
    machine.fdt = address;
    machine.fdt_size = be32(tree + 4);
    const u8 *at = tree + be32(tree + 8), *end = tree + machine.fdt_size;
    const char *strings = (const char *)tree + be32(tree + 12);
    static struct node stack[12];
    unsigned depth = 0;
    while (at < end) {
        u32 token = be32(at);
        at += 4;
        if (token == FDT_BEGIN_NODE) {
            if (depth == ARRAY_SIZE(stack))
                return false;
            struct node *n = &stack[depth++];
            memset(n, 0, sizeof *n);
            n->name = (const char *)at;
            n->address_cells = 2;
            n->size_cells = 1;
            at += ALIGN_UP(strlen(n->name) + 1, 4);
        } else if (token == FDT_PROP && depth) {
            struct property value = {(const char *)at + 8, be32(at)};
            const char *name = strings + be32(at + 4);
            struct node *n = &stack[depth - 1];
            for (unsigned i = 0; i < PROPERTIES; i++)
                if (text_equal(name, property_names[i]))
                    n->p[i] = value;
            if (text_equal(name, "#address-cells"))
                n->address_cells = cell(&value, 0);
            if (text_equal(name, "#size-cells"))
                n->size_cells = cell(&value, 0);
            at += 8 + ALIGN_UP(value.size, 4);
        } else if (token == FDT_END_NODE && depth) {
            depth--;
            end_node(&stack[depth], depth ? &stack[depth - 1] : &stack[depth], depth);
        } else if (token != FDT_NOP) {
            break;
        }
    }
    machine.aplic.hart_index = supervisor_position(&later.imsic_extended);
    machine.imsic.base += (u64)machine.aplic.hart_index << (12 + later.imsic_guest_bits);
    machine.plic.context = supervisor_position(&later.plic_extended);
    return machine.memory_size != 0;
}

bool isa_has(const char *extension)
{
    const char *s = machine.isa + 4; /* past rv64 */
    size_t length = strlen(extension);
    if (length == 1) {
        for (; *s && *s != '_'; s++)
            if (*s == *extension || (*s == 'g' && (*extension == 'd' || *extension == 'f')))
                return true;
        return false;
    }
    for (; *s; s++)
        if (s[0] == '_' && memcmp(s + 1, extension, length) == 0 && (!s[length + 1] || s[length + 1] == '_'))
            return true;
    return false;
}
