/* Pseudo-random numbers by position: the same seed and index give the same number, in any order. */
#ifndef RANDOM_H
#define RANDOM_H

#include "types.h"

/* splitmix64 (Steele, Lea, Flood 2014). */
static inline u64 random_at(u64 seed, u64 index)
{
    u64 z = seed * 0xd1342543de82ef95UL + (index + 1) * 0x9e3779b97f4a7c15UL;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9UL;
    z = (z ^ z >> 27) * 0x94d049bb133111ebUL;
    return z ^ z >> 31;
}

#endif
