/* External interrupts: IMSIC (messages), APLIC (wired, forwarded as messages), or PLIC (wired). */
#ifndef IRQ_H
#define IRQ_H

#include "types.h"

#define MAX_EIID 256

extern u64 irq_count[MAX_EIID]; /* per interrupt identity, or PLIC source */

void irq_init(void);
bool irq_has_msi(void);
/* A free interrupt identity of our hart's IMSIC, enabled; 0 when there is none left. */
u32 irq_alloc(void);
u64 irq_msi_address(void);
/* Let a wired source interrupt us; false when there is no controller for it. */
bool irq_enable_wired(u32 source);
void irq_handle(void);
const char *irq_kind(void);
/* Print one word per identity that has fired. */
void irq_print(void);

#endif
