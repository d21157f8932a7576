/* Strings and numbers: what little of a C library the guest needs. */
#ifndef TEXT_H
#define TEXT_H

#include "types.h"

void *memset(void *to, int value, size_t count);
void *memcpy(void *to, const void *from, size_t count);
int memcmp(const void *a, const void *b, size_t count);
size_t strlen(const char *s);
bool text_equal(const char *a, const char *b);
/* Whether `word` is one of the strings, each ended by a zero byte, in `list` of `size` bytes. */
bool text_list_has(const char *list, size_t size, const char *word);
/* Read the number (decimal, or hexadecimal after 0x) at *cursor past spaces; false when there is none. */
bool text_number(const char **cursor, u64 *value);
/* Skip spaces; return the first character after them without taking it. */
char text_peek(const char **cursor);

#endif
