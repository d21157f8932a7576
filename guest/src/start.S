/* Entry, trap vector, the way into and out of U-mode, and the entry of a second hart.
 * Entered as Linux is (SBI 2.0 ch. 3, Documentation/riscv/boot): S-mode, satp = 0, a0 = hart id, a1 = device tree. */

#define FRAME_SIZE 272          /* struct trap_frame in trap.h: x0..x31, sepc, sstatus */
#define SSTATUS_SPP 0x100
#define SSTATUS_SPIE 0x20

    .section .text.entry, "ax"
    .globl  _start
_start:
    /* One hart runs the guest. OpenSBI before 1.3 may send a hart here that was started at second_hart_entry: it sets
     * the hart's state before its address (OpenSBI commit e8e9ed37; seen in 3 boots of 90 on a busy host). */
    .option push
    .option norelax
    la      t0, boot_hart
    addi    t1, a0, 1
1:  lr.w.aqrl t2, (t0)
    beq     t2, t1, 2f              /* a reset without a reload of the image */
    bnez    t2, second_hart_entry
    sc.w.aqrl t2, t1, (t0)
    bnez    t2, 1b
2:  la      gp, __global_pointer$
    .option pop
    csrw    sie, zero
    csrw    sscratch, zero
    la      sp, boot_stack_top
    la      t0, __bss_start
    la      t1, __bss_end
1:  sd      zero, 0(t0)
    sd      zero, 8(t0)
    addi    t0, t0, 16
    bltu    t0, t1, 1b
    la      t0, trap_entry
    csrw    stvec, t0
    tail    main

    .section .text.trap, "ax"
    .balign 4
    .globl  trap_entry
trap_entry:
    /* sscratch is 0 in S-mode and holds the kernel stack in U-mode. */
    csrrw   sp, sscratch, sp
    bnez    sp, 1f
    csrr    sp, sscratch
1:  addi    sp, sp, -FRAME_SIZE
    .irp    n, 1,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    sd      x\n, 8*\n(sp)
    .endr
    csrrw   t0, sscratch, zero
    sd      t0, 16(sp)
    csrr    t0, sepc
    csrr    t1, sstatus
    sd      t0, 256(sp)
    sd      t1, 264(sp)
    .option push
    .option norelax
    la      gp, __global_pointer$
    .option pop
    mv      a0, sp
    call    trap
    bnez    a0, user_leave
    ld      t0, 256(sp)
    ld      t1, 264(sp)
    csrw    sepc, t0
    csrw    sstatus, t1
    andi    t1, t1, SSTATUS_SPP
    bnez    t1, 2f
    addi    t0, sp, FRAME_SIZE
    csrw    sscratch, t0
2:  .irp    n, 1,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31
    ld      x\n, 8*\n(sp)
    .endr
    ld      sp, 16(sp)
    sret

/* u64 user_run(u64 entry, u64 stack, u64 arg): run in U-mode until trap() says it has ended. */
    .globl  user_run
user_run:
    addi    sp, sp, -112
    sd      ra, 0(sp)
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11
    sd      s\n, 8*(\n+1)(sp)
    .endr
    csrw    sscratch, sp
    csrw    sepc, a0
    li      t0, SSTATUS_SPP
    csrc    sstatus, t0
    li      t0, SSTATUS_SPIE
    csrs    sstatus, t0
    mv      sp, a1
    mv      a0, a2
    sret

user_leave:
    ld      a0, 80(sp)              /* the program's a0 is the result */
    addi    sp, sp, FRAME_SIZE
    ld      ra, 0(sp)
    .irp    n, 0,1,2,3,4,5,6,7,8,9,10,11
    ld      s\n, 8*(\n+1)(sp)
    .endr
    addi    sp, sp, 112
    ret

/* Entry of a hart started through SBI HSM (SBI 2.0 §9.1). It counts itself and stops. */
    .globl  second_hart_entry
second_hart_entry:
    .option push
    .option norelax
    la      t1, harts_answered
    .option pop
    li      t0, 1
    amoadd.d.aqrl zero, t0, (t1)
    li      a7, 0x48534D
    li      a6, 1                   /* hart_stop */
    ecall
1:  wfi
    j       1b

    .data
    .balign 8
    .globl  harts_answered
harts_answered:
    .dword  0
boot_hart:
    .word   0                       /* id + 1 of the hart that runs the guest */

    .section .bss.stack, "aw", @nobits
    .balign 16
    .space  16384
boot_stack_top:
