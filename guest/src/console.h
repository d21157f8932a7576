/* The console: ns16550a UART of the device tree, else SBI DBCN; formatted output, line input. */
#ifndef CONSOLE_H
#define CONSOLE_H

#include "types.h"

void console_init(void);
void console_write(const char *text, size_t size);
/* Take what the UART has received into the input buffer; called by the interrupt handler and by readers. */
void console_receive(void);
/* Next input character or -1. */
int console_getc(void);
/* Read one line (ended by CR or LF, not stored), with echo and erase; sleeps between characters. */
void console_read_line(char *line, size_t size);
/* %s %c %d %u %x %lu %ld %lx with width and zero padding. */
void print(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
