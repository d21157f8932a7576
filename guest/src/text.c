/* Strings and numbers. */
#include "text.h"

void *memset(void *to, int value, size_t count)
{
    u8 *p = to;
    if (((u64)p & 7) == 0) {
        u64 word = 0x0101010101010101UL * (u8)value;
        for (; count >= 8; count -= 8, p += 8)
            *(u64 *)p = word;
    }
    while (count--)
        *p++ = (u8)value;
    return to;
}

void *memcpy(void *to, const void *from, size_t count)
{
    u8 *p = to;
    const u8 *q = from;
    if ((((u64)p | (u64)q) & 7) == 0)
        for (; count >= 8; count -= 8, p += 8, q += 8)
            *(u64 *)p = *(const u64 *)q;
    while (count--)
        *p++ = *q++;
    return to;
}

int memcmp(const void *a, const void *b, size_t count)
{
    const u8 *p = a, *q = b;
    for (; count--; p++, q++)
        if (*p != *q)
            return *p - *q;
    return 0;
}

size_t strlen(const char *s)
{
    size_t n = 0;
    while (s[n])
        n++;
    return n;
}

bool text_equal(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return *a == *b;
}

bool text_list_has(const char *list, size_t size, const char *word)
{
    size_t length = strlen(word) + 1;
    for (size_t at = 0; at + length <= size;) {
        if (memcmp(list + at, word, length) == 0)
            return true;
        while (at < size && list[at])
            at++;
        at++;
    }
    return false;
}

char text_peek(const char **cursor)
{
    while (**cursor == ' ' || **cursor == '\t')
        ++*cursor;
    return **cursor;
}

static int digit_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : 99;
}

bool text_number(const char **cursor, u64 *value)
{
    const char *p = *cursor;
    text_peek(&p);
    int base = 10;
    if (p[0] == '0' && (p[1] | 0x20) == 'x' && digit_of(p[2]) < 16) {
        base = 16;
        p += 2;
    }
    if (digit_of(*p) >= base)
        return false;
    u64 n = 0;
    while (digit_of(*p) < base)
        n = n * (u64)base + (u64)digit_of(*p++);
    *cursor = p;
    *value = n;
    return true;
}
