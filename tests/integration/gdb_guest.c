/* A guest to debug: each hart counts in a structure of its own, forever. Built with -g -O0 by the test. */
typedef unsigned long u64;

struct point { int x, y; };
struct counter {
    u64 hart, turns;
    struct point where;
    const char *name;
    double half;
};

struct counter counters[2] = { { .name = "first" }, { .name = "second" } };
volatile u64 watched, looked_at = 7;
volatile u64 traps;

static u64 sbi(u64 extension, u64 function, u64 a, u64 b, u64 c)
{
    register u64 a0 __asm__("a0") = a;
    register u64 a1 __asm__("a1") = b;
    register u64 a2 __asm__("a2") = c;
    register u64 a6 __asm__("a6") = function;
    register u64 a7 __asm__("a7") = extension;
    __asm__ volatile("ecall" : "+r"(a0), "+r"(a1) : "r"(a2), "r"(a6), "r"(a7) : "memory");
    return a0;
}

static void print(const char *text)
{
    volatile unsigned char *uart = (volatile unsigned char *)0x10000000;
    while (*text)
        uart[0] = *text++;
}

int add(int left, int right)
{
    int sum = left + right;
    return sum;
}

void turn(struct counter *counter)
{
    counter->turns++;
    counter->where.x = add(counter->where.x, 1);
    counter->where.y = add(counter->where.x, 10);
    counter->half += 0.5;
}

void breakpoint_of_its_own(void)
{
    __asm__ volatile(".option push\n.option norvc\nebreak\n.option pop");
}

__attribute__((aligned(4))) __attribute__((interrupt("supervisor"))) void trapped(void)
{
    u64 at;
    __asm__ volatile("csrr %0, sepc" : "=r"(at));
    __asm__ volatile("csrw sepc, %0" : : "r"(at + 4));
    traps++;
}

void second_main(u64 hart)
{
    counters[1].hart = hart;
    for (;;)
        turn(&counters[1]);
}

extern char second_entry[];

void main(u64 hart)
{
    __asm__ volatile("csrs sstatus, %0" : : "r"(0x2000ul));
    __asm__ volatile("csrw stvec, %0" : : "r"(&trapped));
    counters[0].hart = hart;
    sbi(0x48534D, 0, !hart, (u64)second_entry, 0);
    breakpoint_of_its_own();
    print("ready\r\n");
    for (u64 round = 1;; round++) {
        turn(&counters[0]);
        watched = round / 4;
        counters[0].where.x += looked_at == 0;
        if (round % 1024 == 0)
            __asm__ volatile("nop");
    }
}

/* Where a hart begins, as SBI hands over (a0 = hart), and the stacks. */
__asm__(".section .text.entry,\"ax\"\n.globl _start\n_start:\nla sp, stack_0\ncall main\n"
        ".globl second_entry\nsecond_entry:\nla sp, stack_1\nli t0, 0x2000\ncsrs sstatus, t0\n"
        "la t0, trapped\ncsrw stvec, t0\ncall second_main\n"
        ".section .bss\n.balign 16\n.skip 8192\nstack_0:\n.skip 8192\nstack_1:\n");
