/* Ending the machine. */
#ifndef POWER_H
#define POWER_H

#include "types.h"

/* Code 0: SBI shutdown. Other codes: the sifive_test register, so that the emulator exits with them. */
void power_off(u32 code) __attribute__((noreturn));
void power_reboot(void) __attribute__((noreturn));

#endif
