/* `f`: floating point (F and D extensions). Every operation is exactly rounded, so the checksum is the same on every
 * machine that is right. The one file compiled for rv64gc; it is only entered when the ISA string has d. */
#include "commands.h"
#include "console.h"
#include "csr.h"
#include "fdt.h"

#define EXPECTED_CHECKSUM 0x8622cd576fa5301bUL
#define EXPECTED_FLAGS 0x1fU

static u64 bits_of(double v)
{
    u64 bits;
    __asm__ volatile("fmv.x.d %0, %1" : "=r"(bits) : "f"(v));
    return bits;
}

static u64 mix(u64 sum, u64 bits)
{
    sum = (sum ^ bits) * 0x100000001b3UL;
    return sum ^ sum >> 29;
}

#define OP2(name, a, b)                                                                \
    ({                                                                                 \
        __typeof__(a) r_;                                                              \
        __asm__ volatile(name " %0, %1, %2" : "=f"(r_) : "f"(a), "f"(b));              \
        r_;                                                                            \
    })
#define OP3(name, a, b, c)                                                             \
    ({                                                                                 \
        __typeof__(a) r_;                                                              \
        __asm__ volatile(name " %0, %1, %2, %3" : "=f"(r_) : "f"(a), "f"(b), "f"(c));  \
        r_;                                                                            \
    })
#define TO_INT(name, a)                                                                \
    ({                                                                                 \
        u64 r_;                                                                        \
        __asm__ volatile(name : "=r"(r_) : "f"(a));                                    \
        r_;                                                                            \
    })

/* Values chosen for their corners: zeroes, infinities, NaNs, subnormals, halves, near-overflow. */
static const u64 samples[] = {
    0x0000000000000000, 0x8000000000000000, 0x3ff0000000000000, 0xbff8000000000000, 0x7ff0000000000000,
    0xfff0000000000000, 0x7ff8000000000000, 0x7ff0000000000001, 0x0000000000000001, 0x000fffffffffffff,
    0x7fefffffffffffff, 0x0010000000000000, 0x400921fb54442d18, 0x3fe0000000000000, 0x43e0000000000000,
    0xc1e0000000200000, 0x3cb0000000000000, 0x4024000000000000, 0x36a0000000000000, 0x47efffffe0000000,
};

static u64 corner_cases(u64 sum)
{
    for (unsigned i = 0; i < ARRAY_SIZE(samples); i++)
        for (unsigned j = 0; j < ARRAY_SIZE(samples); j++) {
            double a, b;
            __asm__ volatile("fmv.d.x %0, %1" : "=f"(a) : "r"(samples[i]));
            __asm__ volatile("fmv.d.x %0, %1" : "=f"(b) : "r"(samples[j]));
            sum = mix(sum, bits_of(OP2("fadd.d", a, b)));
            sum = mix(sum, bits_of(OP2("fsub.d", a, b)));
            sum = mix(sum, bits_of(OP2("fmul.d", a, b)));
            sum = mix(sum, bits_of(OP2("fdiv.d", a, b)));
            sum = mix(sum, bits_of(OP2("fmin.d", a, b)));
            sum = mix(sum, bits_of(OP2("fmax.d", a, b)));
            sum = mix(sum, bits_of(OP3("fmadd.d", a, b, b)));
            sum = mix(sum, bits_of(OP3("fnmsub.d", a, b, a)));
            float f, g;
            u64 single;
            __asm__ volatile("fcvt.s.d %0, %1" : "=f"(f) : "f"(a));
            __asm__ volatile("fcvt.s.d %0, %1" : "=f"(g) : "f"(b));
            float quotient = OP2("fdiv.s", f, g), product = OP3("fmadd.s", f, g, f);
            __asm__ volatile("fmv.x.w %0, %1" : "=r"(single) : "f"(quotient));
            sum = mix(sum, single);
            __asm__ volatile("fmv.x.w %0, %1" : "=r"(single) : "f"(product));
            sum = mix(sum, single);
            sum = mix(sum, TO_INT("fcvt.w.d %0, %1, rtz", a) ^ TO_INT("fcvt.l.d %0, %1, rne", b));
            sum = mix(sum, TO_INT("fcvt.lu.d %0, %1, rup", a) ^ TO_INT("fclass.d %0, %1", b));
            double root;
            __asm__ volatile("fsqrt.d %0, %1" : "=f"(root) : "f"(a));
            sum = mix(sum, bits_of(root));
        }
    return sum;
}

/* Ordinary work: a series and a Newton iteration. */
static u64 series(u64 sum)
{
    double pi = 0, root = 1, sign = 1;
    for (unsigned i = 0; i < 2000; i++, sign = -sign)
        pi += sign * 4.0 / (2.0 * i + 1.0);
    for (unsigned i = 0; i < 20; i++)
        root = 0.5 * (root + 2.0 / root);
    return mix(mix(sum, bits_of(pi)), bits_of(root));
}

void command_float(void)
{
    if (!isa_has("d")) {
        print("float: result=absent\n");
        return;
    }
    csr_set(CSR_SSTATUS, SSTATUS_FS_INITIAL);
    csr_write(CSR_FCSR, 0);
    u64 sum = series(corner_cases(0xcbf29ce484222325UL));
    u32 flags = (u32)csr_read(CSR_FFLAGS), dirty = (csr_read(CSR_SSTATUS) & SSTATUS_FS) == SSTATUS_FS;
    csr_clear(CSR_SSTATUS, SSTATUS_FS);
    bool ok = sum == EXPECTED_CHECKSUM && flags == EXPECTED_FLAGS && dirty;
    print("float: checksum=%016lx expected=%016lx fflags=0x%x dirty=%u result=%s\n", sum, EXPECTED_CHECKSUM, flags,
          dirty, ok ? "ok" : "failed");
}
