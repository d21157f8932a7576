/* Control and status registers by number (privileged specification, table 2.3; AIA table 2.2; Sstc). */
#ifndef CSR_H
#define CSR_H

#include "types.h"

#define CSR_FFLAGS 0x001
#define CSR_FCSR 0x003
#define CSR_SSTATUS 0x100
#define CSR_SIE 0x104
#define CSR_SIP 0x144
#define CSR_STIMECMP 0x14D /* Sstc */
#define CSR_SISELECT 0x150 /* Ssaia */
#define CSR_SIREG 0x151    /* Ssaia */
#define CSR_STOPEI 0x15C   /* Ssaia: highest pending external interrupt; writing claims it */
#define CSR_SATP 0x180
#define CSR_CYCLE 0xC00
#define CSR_TIME 0xC01
#define CSR_INSTRET 0xC02

#define SSTATUS_SIE (1UL << 1)
#define SSTATUS_SPIE (1UL << 5)
#define SSTATUS_SPP (1UL << 8)
#define SSTATUS_FS (3UL << 13)
#define SSTATUS_FS_INITIAL (1UL << 13)
#define SSTATUS_SUM (1UL << 18)

#define IRQ_S_SOFT 1
#define IRQ_S_TIMER 5
#define IRQ_S_EXTERNAL 9

#define csr_read(csr)                                                          \
    ({                                                                         \
        u64 v_;                                                                \
        __asm__ volatile("csrr %0, %1" : "=r"(v_) : "i"(csr) : "memory");      \
        v_;                                                                    \
    })
#define csr_write(csr, value) __asm__ volatile("csrw %0, %1" ::"i"(csr), "rK"((u64)(value)) : "memory")
#define csr_set(csr, value) __asm__ volatile("csrs %0, %1" ::"i"(csr), "rK"((u64)(value)) : "memory")
#define csr_clear(csr, value) __asm__ volatile("csrc %0, %1" ::"i"(csr), "rK"((u64)(value)) : "memory")
#define csr_swap(csr, value)                                                   \
    ({                                                                         \
        u64 v_;                                                                \
        __asm__ volatile("csrrw %0, %1, %2" : "=r"(v_) : "i"(csr), "rK"((u64)(value)) : "memory"); \
        v_;                                                                    \
    })

#endif
