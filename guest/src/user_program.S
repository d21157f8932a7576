/* The program `u` runs in U-mode. Position independent; copied to a page of its own. a0 = address of its data page.
 * System calls: a7 = 1 put byte a0; 2 return hart; 3 end with result a0. Bad accesses are skipped by the kernel, which
 * leaves the cause in t6. */
    .section .rodata.user, "a"
    .option push
    .option norelax
    .balign 16
    .globl  user_program
user_program:
    mv      s0, a0
    li      s1, 0                   /* result: a checksum of what happened */
    li      a7, 1
    li      a0, 'U'
    ecall
    li      a7, 2
    ecall
    bltz    a0, fail
    /* stack and data: recursive sum 1..10 */
    li      a0, 10
    jal     sum
    li      t0, 55
    bne     a0, t0, fail
    addi    s1, s1, 1
    /* write data over a page boundary, read it back */
    li      t1, 0x1122334455667788
    lui     t2, 1
    add     t2, t2, s0
    sd      t1, -8(t2)
    sd      t1, 0(t2)
    ld      t3, -8(t2)
    bne     t3, t1, fail
    addi    s1, s1, 1
    /* the kernel's memory: load page fault (13) */
    li      t6, 0
    li      t0, 0x80200000
    .option norvc
    ld      t1, 0(t0)
    .option rvc
    li      t0, 13
    bne     t6, t0, fail
    addi    s1, s1, 1
    /* our own code: store page fault (15) */
    li      t6, 0
1:  auipc   t0, 0
    .option norvc
    sw      zero, 0(t0)
    .option rvc
    li      t0, 15
    bne     t6, t0, fail
    addi    s1, s1, 1
    /* our data is not executable: fetch page fault (12); the kernel returns to ra */
    li      t6, 0
    jalr    ra, 0(s0)
    li      t0, 12
    bne     t6, t0, fail
    addi    s1, s1, 1
    /* a supervisor CSR: illegal instruction (2) */
    li      t6, 0
    csrr    t1, sstatus
    li      t0, 2
    bne     t6, t0, fail
    addi    s1, s1, 1
    mv      a0, s1
    li      a7, 3
    ecall
fail:
    li      a0, 0
    li      a7, 3
    ecall
    j       fail
sum:
    addi    sp, sp, -16
    sd      ra, 0(sp)
    sd      a0, 8(sp)
    beqz    a0, 1f
    addi    a0, a0, -1
    jal     sum
    ld      t0, 8(sp)
    add     a0, a0, t0
1:  ld      ra, 0(sp)
    addi    sp, sp, 16
    ret
    .globl  user_program_end
user_program_end:
    .option pop
