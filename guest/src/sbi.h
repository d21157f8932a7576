/* Supervisor Binary Interface (SBI 2.0): calls to the machine's firmware. */
#ifndef SBI_H
#define SBI_H

#include "types.h"

#define SBI_EXT_BASE 0x10
#define SBI_EXT_TIME 0x54494D45
#define SBI_EXT_IPI 0x735049
#define SBI_EXT_RFENCE 0x52464E43
#define SBI_EXT_HSM 0x48534D
#define SBI_EXT_SRST 0x53525354
#define SBI_EXT_PMU 0x504D55
#define SBI_EXT_DBCN 0x4442434E

struct sbi_result {
    s64 error;
    u64 value;
};

struct sbi_result sbi_call(u64 extension, u64 function, u64 arg0, u64 arg1, u64 arg2);
bool sbi_has(u64 extension);
/* SRST (SBI 2.0 §10.1): type 0 shutdown, 1 cold reboot; reason 0 none, 1 system failure. Returns only on failure. */
void sbi_reset(u32 type, u32 reason);
/* Print what the firmware is and call each extension that has something to test; returns the number of failures. */
unsigned sbi_report(void);

#endif
