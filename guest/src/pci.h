/* PCI functions of bus 0: configuration space, base address registers, MSI-X. */
#ifndef PCI_H
#define PCI_H

#include "types.h"

#define MAX_FUNCTIONS 256

enum {
    PCI_VENDOR_ID = 0x00,
    PCI_DEVICE_ID = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_CLASS_REVISION = 0x08,
    PCI_HEADER_TYPE = 0x0E,
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM_ID = 0x2E,
    PCI_CAPABILITIES = 0x34,
};

#define PCI_COMMAND_IO 0x001
#define PCI_COMMAND_MEMORY 0x002
#define PCI_COMMAND_MASTER 0x004
#define PCI_COMMAND_INTX_OFF 0x400
#define PCI_CAP_MSIX 0x11
#define PCI_CAP_VENDOR 0x09
#define PCI_MSIX_ENABLE 0x8000
#define PCI_MSIX_MASK_ALL 0x4000

struct bar {
    u64 address; /* where the CPU finds it; 0: not there, or no room */
    u64 size;
    bool is_io, is_64, is_prefetchable;
};

struct pci_function {
    u16 bdf;
    u16 vendor, device, subsystem;
    u32 class_code; /* 24 bits */
    u8 header_type;
    struct bar bars[6];
    u16 msix_cap;
    u32 msix_entries;
    u64 msix_table;
};

extern struct pci_function pci_functions[MAX_FUNCTIONS];
extern unsigned pci_count;

u64 pci_config_address(u16 bdf, u32 offset);
u32 pci_read(const struct pci_function *f, u32 offset, unsigned size);
void pci_write(const struct pci_function *f, u32 offset, unsigned size, u32 value);

/* Find every function of bus 0, give its BARs addresses, let it decode and master; returns the number of failures. */
unsigned pci_enumerate(void);
/* Write BARs, command register and a quiet MSI-X state again, as after pci_enumerate. */
void pci_reinit(const struct pci_function *f);
/* Write one BAR's address, decoding off meanwhile. */
void pci_write_bar(const struct pci_function *f, unsigned bar, u64 cpu_address);
/* First capability with this id after `previous` (0: from the start); 0 when there is none. */
u32 pci_find_capability(const struct pci_function *f, u8 id, u32 previous);
/* Route MSI-X entry `entry` to interrupt identity `eiid` and unmask it. */
void pci_msix_route(const struct pci_function *f, u32 entry, u32 eiid);
void pci_msix_enable(const struct pci_function *f, bool enable);

const char *pci_name(const struct pci_function *f);
void pci_print_bdf(const struct pci_function *f);
void pci_print(const struct pci_function *f);
struct pci_function *pci_find(u16 bdf);
/* "bb:dd.f", "dd.f" or "dd" at *cursor. */
bool pci_parse_bdf(const char **cursor, u16 *bdf);

#endif
