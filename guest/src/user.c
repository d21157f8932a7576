/* `u`: a program in U-mode under Sv39 (privileged specification, §4.4): translation, protection, A/D bits, traps. */
#include "commands.h"
#include "console.h"
#include "csr.h"
#include "fdt.h"
#include "heap.h"
#include "text.h"
#include "trap.h"

#define PTE_V 0x01UL
#define PTE_R 0x02UL
#define PTE_W 0x04UL
#define PTE_X 0x08UL
#define PTE_U 0x10UL
#define PTE_A 0x40UL
#define PTE_D 0x80UL
#define SATP_SV39 (8UL << 60)

#define USER_INDEX 255UL               /* entry of the root table */
#define USER_BASE (USER_INDEX << 30)   /* code, then two data pages, then a stack page */
#define EXPECTED_RESULT 6
#define ARENA_PAGES 8

extern char user_program[], user_program_end[];

enum { ROOT, MIDDLE, LEAF, CODE, DATA0, DATA1, STACK };
static u64 *pages[ARENA_PAGES];

static struct {
    u64 calls, protection_faults, ad_faults;
    char put;
} seen;

static u64 pte(const void *page, u64 flags) { return (u64)page >> 12 << 10 | flags; }

static void build_tables(void)
{
    for (unsigned i = 0; i < ARENA_PAGES; i++) {
        if (!pages[i])
            pages[i] = heap_alloc(4096, 4096);
        memset(pages[i], 0, 4096);
    }
    /* The supervisor sees itself and the devices where they are: one gigapage an entry. */
    for (u64 i = 0; i < USER_INDEX; i++)
        pages[ROOT][i] = i << 28 | PTE_V | PTE_R | PTE_W | PTE_X | PTE_A | PTE_D;
    pages[ROOT][USER_INDEX] = pte(pages[MIDDLE], PTE_V);
    pages[MIDDLE][0] = pte(pages[LEAF], PTE_V);
    pages[LEAF][0] = pte(pages[CODE], PTE_V | PTE_U | PTE_R | PTE_X | PTE_A);
    pages[LEAF][1] = pte(pages[DATA0], PTE_V | PTE_U | PTE_R | PTE_W); /* A and D clear: hardware sets them, or traps */
    pages[LEAF][2] = pte(pages[DATA1], PTE_V | PTE_U | PTE_R | PTE_W);
    pages[LEAF][3] = pte(pages[STACK], PTE_V | PTE_U | PTE_R | PTE_W | PTE_A | PTE_D);
    memcpy(pages[CODE], user_program, (size_t)(user_program_end - user_program));
}

/* Without Svadu a clear A or D bit is a page fault, and software's to set. */
static bool set_accessed_or_dirty(u64 cause, u64 address)
{
    u64 index = (address - USER_BASE) >> 12;
    if (address < USER_BASE || index > 3 || cause == CAUSE_FETCH_PAGE)
        return false;
    u64 *entry = &pages[LEAF][index], add = cause == CAUSE_STORE_PAGE ? PTE_A | PTE_D : PTE_A;
    if ((*entry & add) == add || (cause == CAUSE_STORE_PAGE && !(*entry & PTE_W)))
        return false;
    *entry |= add;
    __asm__ volatile("sfence.vma %0, zero" ::"r"(address) : "memory");
    seen.ad_faults++;
    return true;
}

static bool handle(struct trap_frame *f, u64 cause, u64 tval)
{
    if (cause == CAUSE_USER_ECALL) {
        seen.calls++;
        f->sepc += 4;
        if (f->x[17] == 1)
            seen.put = (char)f->x[10];
        if (f->x[17] == 2)
            f->x[10] = machine.hart;
        return f->x[17] == 3;
    }
    if (set_accessed_or_dirty(cause, tval))
        return false;
    if (++seen.protection_faults > 16) {
        f->x[10] = 0;
        return true;
    }
    f->x[31] = cause; /* t6 */
    f->sepc = cause == CAUSE_FETCH_PAGE ? f->x[1] : f->sepc + 4;
    return false;
}

void command_user(void)
{
    build_tables();
    memset(&seen, 0, sizeof seen);
    fence_all();
    __asm__ volatile("fence.i" ::: "memory");
    csr_write(CSR_SATP, SATP_SV39 | (u64)pages[ROOT] >> 12);
    __asm__ volatile("sfence.vma" ::: "memory");
    bool has_sv39 = csr_read(CSR_SATP) >> 60 == 8;
    u64 result = 0, dirty = 0, through_sum = 0;
    if (has_sv39) {
        trap_user_handler = handle;
        result = user_run(USER_BASE, USER_BASE + 0x4000, USER_BASE + 0x1000);
        trap_user_handler = NULL;
        dirty = (pages[LEAF][1] & PTE_D) && (pages[LEAF][2] & PTE_D);
        u64 refused;
        bool open = guarded_read(USER_BASE + 0x2000, 8, &refused); /* S-mode may not read U pages ... */
        csr_set(CSR_SSTATUS, SSTATUS_SUM);                         /* ... unless SUM is set */
        through_sum = !open && guarded_read(USER_BASE + 0x2000, 8, &refused) && refused == pages[DATA1][0];
        csr_clear(CSR_SSTATUS, SSTATUS_SUM);
    }
    csr_write(CSR_SATP, 0);
    __asm__ volatile("sfence.vma" ::: "memory");
    bool ok = result == EXPECTED_RESULT && dirty && through_sum && seen.put == 'U' &&
              pages[DATA1][0] == 0x1122334455667788;
    print("user: mode=%s calls=%lu faults=%lu ad=%s sum=%lu steps=%lu result=%s\n", has_sv39 ? "sv39" : "none",
          seen.calls, seen.protection_faults, seen.ad_faults ? "trap" : "hardware", through_sum, result,
          ok ? "ok" : "failed");
}
