/* The console. ns16550a registers as in the PC16550D data sheet, §8; SBI debug console, SBI 2.0 ch. 12. */
#include "console.h"
#include "fdt.h"
#include "irq.h"
#include "sbi.h"
#include "timer.h"

#include <stdarg.h>

enum { RBR = 0, THR = 0, IER = 1, FCR = 2, IIR = 2, LCR = 3, MCR = 4, LSR = 5 };
#define IER_RECEIVED 0x01
#define FCR_ENABLE 0x01
#define IIR_FIFO 0xC0
#define LSR_DATA_READY 0x01
#define LSR_THR_EMPTY 0x20
#define FIFO_DEPTH 16

static u64 uart;
static unsigned shift;
static unsigned burst = 1; /* bytes that may follow one LSR.THRE */
static bool has_dbcn, uart_interrupts;

static struct {
    char data[256];
    u8 head, tail; /* wrap by themselves */
} input;

static u8 uart_read(unsigned reg) { return read8(uart + ((u64)reg << shift)); }
static void uart_write(unsigned reg, u8 value) { write8(uart + ((u64)reg << shift), value); }

void console_init(void)
{
    uart = machine.uart.base;
    shift = machine.uart.reg_shift;
    has_dbcn = sbi_has(SBI_EXT_DBCN);
    if (!uart)
        return;
    uart_write(LCR, 0x03); /* 8N1, DLAB off; the speed is the firmware's business */
    uart_write(FCR, FCR_ENABLE); /* without clearing: what was typed before stays */
    uart_write(MCR, 0x0B); /* DTR, RTS, OUT2: the interrupt line is connected */
    burst = (uart_read(IIR) & IIR_FIFO) == IIR_FIFO ? FIFO_DEPTH : 1;
    uart_interrupts = irq_enable_wired(machine.uart.irq);
    if (uart_interrupts)
        uart_write(IER, IER_RECEIVED);
}

/* One LSR read per FIFO load, so that a page of text costs few device accesses. */
static void uart_send(const char *text, size_t size)
{
    while (size) {
        while (!(uart_read(LSR) & LSR_THR_EMPTY))
            ;
        for (unsigned n = 0; n < burst && size; n++, size--)
            uart_write(THR, (u8)*text++);
    }
}

void console_write(const char *text, size_t size)
{
    if (uart)
        uart_send(text, size);
    else if (has_dbcn)
        sbi_call(SBI_EXT_DBCN, 0, size, (u64)text, 0);
    else
        while (size--)
            sbi_call(1, 0, (u8)*text++, 0, 0); /* legacy console putchar */
}

void console_receive(void)
{
    if (uart)
        while (uart_read(LSR) & LSR_DATA_READY) {
            char c = (char)uart_read(RBR);
            if ((u8)(input.head + 1) != input.tail)
                input.data[input.head++] = c;
        }
    else if (has_dbcn && (u8)(input.head + 1) != input.tail &&
             sbi_call(SBI_EXT_DBCN, 1, 1, (u64)&input.data[input.head], 0).value == 1)
        input.head++;
}

int console_getc(void)
{
    if (input.head == input.tail)
        console_receive();
    return input.head == input.tail ? -1 : input.data[input.tail++];
}

void console_read_line(char *line, size_t size)
{
    size_t length = 0;
    for (;;) {
        int c = console_getc();
        if (c < 0) { /* the tick is only a safety net where the UART interrupts */
            timer_arm(time_now() + time_from_us(uart_interrupts ? 200000 : 10000));
            cpu_idle();
        } else if (c == '\r' || c == '\n') {
            print("\n");
            line[length] = 0;
            return;
        } else if ((c == 8 || c == 127) && length) {
            length--;
            print("\b \b");
        } else if (c >= ' ' && c < 127 && length + 1 < size) {
            line[length++] = (char)c;
            print("%c", c);
        }
    }
}

static struct {
    char text[128];
    unsigned used;
} output;

static void emit(char c)
{
    if (output.used + 2 > sizeof output.text) {
        console_write(output.text, output.used);
        output.used = 0;
    }
    if (c == '\n')
        output.text[output.used++] = '\r';
    output.text[output.used++] = c;
}

static void emit_number(u64 value, unsigned base, bool negative, unsigned width, char pad)
{
    char digits[24];
    unsigned n = 0;
    do
        digits[n++] = "0123456789abcdef"[value % base];
    while (value /= base);
    if (negative)
        digits[n++] = '-';
    for (; width > n; width--)
        emit(pad);
    while (n)
        emit(digits[--n]);
}

void print(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    for (; *format; format++) {
        if (*format != '%') {
            emit(*format);
            continue;
        }
        char pad = ' ';
        unsigned width = 0;
        bool is_long = false;
        if (*++format == '0')
            pad = '0';
        for (; *format >= '0' && *format <= '9'; format++)
            width = width * 10 + (unsigned)(*format - '0');
        for (; *format == 'l'; format++)
            is_long = true;
        if (*format == 's') {
            const char *s = va_arg(args, const char *);
            while (*s)
                emit(*s++);
        } else if (*format == 'c') {
            emit((char)va_arg(args, int));
        } else if (*format == 'd') {
            s64 v = is_long ? va_arg(args, s64) : va_arg(args, s32);
            emit_number(v < 0 ? -(u64)v : (u64)v, 10, v < 0, width, pad);
        } else {
            u64 v = is_long ? va_arg(args, u64) : va_arg(args, u32);
            emit_number(v, *format == 'x' ? 16 : 10, false, width, pad);
        }
    }
    va_end(args);
    console_write(output.text, output.used);
    output.used = 0;
}
