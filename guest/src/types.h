/* Integer types, MMIO accesses of a fixed width, barriers. */
#ifndef TYPES_H
#define TYPES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef uint8_t u8;
typedef uint16_t u16;
typedef uint32_t u32;
typedef uint64_t u64;
typedef int32_t s32;
typedef int64_t s64;

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define ALIGN_UP(x, a) (((x) + ((a) - 1)) & ~((u64)(a) - 1))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define KIB(n) ((u64)(n) << 10)
#define MIB(n) ((u64)(n) << 20)

static inline u8 read8(u64 a) { return *(volatile u8 *)a; }
static inline u16 read16(u64 a) { return *(volatile u16 *)a; }
static inline u32 read32(u64 a) { return *(volatile u32 *)a; }
static inline void write8(u64 a, u8 v) { *(volatile u8 *)a = v; }
static inline void write16(u64 a, u16 v) { *(volatile u16 *)a = v; }
static inline void write32(u64 a, u32 v) { *(volatile u32 *)a = v; }

/* Order accesses to memory and to devices as another observer (a device doing DMA) sees them. */
static inline void fence_all(void) { __asm__ volatile("fence iorw, iorw" ::: "memory"); }
static inline void fence_write(void) { __asm__ volatile("fence w, w" ::: "memory"); }
static inline void fence_read(void) { __asm__ volatile("fence r, r" ::: "memory"); }

#endif
