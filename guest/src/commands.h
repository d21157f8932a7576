/* The prompt and its one-letter commands. */
#ifndef COMMANDS_H
#define COMMANDS_H

#include "types.h"

/* Run the commands after `run=` in the boot arguments, then those typed; never returns. */
void commands_run(const char *bootargs) __attribute__((noreturn));

/* Each takes the text after its letter. */
void command_memory(const char *args);
void command_pci_dump(const char *args);
void command_disk(const char *args);
void command_interrupts(void);
void command_bench(const char *args);
void command_hostile_pci(const char *args);
void command_hostile_rings(const char *args);
void command_user(void);
void command_float(void);

#endif
