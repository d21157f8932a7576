/*
 * What the messages of the example say: a number, a pattern that follows from it, and a CRC, so that loss, repetition
 * and damage are told apart whatever the queue does. `ivmsg.py` makes the same.
 */
#ifndef IVSHMEM_MESSAGE_H
#define IVSHMEM_MESSAGE_H

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

enum { MESSAGE_LONGEST = 1 << 16, MESSAGE_SHORTEST = 16, MESSAGE_WORDS = 12 };

struct message {
    unsigned char bytes[MESSAGE_LONGEST];
    uint32_t length;
};

/* The CRC-32 of zlib. */
static inline uint32_t message_crc(const unsigned char *data, size_t length)
{
    static uint32_t table[256];
    for (uint32_t i = 0; !table[255] && i < 256; i++) {
        uint32_t entry = i;
        for (int bit = 0; bit < 8; bit++)
            entry = entry >> 1 ^ (entry & 1 ? 0xedb88320u : 0);
        table[i] = entry;
    }
    uint32_t value = ~0u;
    for (size_t i = 0; i < length; i++)
        value = value >> 8 ^ table[(value ^ data[i]) & 0xff];
    return ~value;
}

/* Make message `number`. */
static inline void message_fill(struct message *message, uint32_t length, uint32_t number)
{
    uint32_t words[3] = {number, 0, 0};
    message->length = length;
    for (uint32_t at = MESSAGE_WORDS; at < length; at++)
        message->bytes[at] = (unsigned char)(number + at);
    words[2] = message_crc(message->bytes + MESSAGE_WORDS, message->length - MESSAGE_WORDS);
    words[1] = ~(number + words[2]);
    memcpy(message->bytes, words, sizeof words);
}

/* Return whether a message is as `message_fill` made it; its number. */
static inline bool message_intact(const struct message *message, uint32_t *number)
{
    uint32_t words[3];
    if (message->length < MESSAGE_SHORTEST)
        return false;
    memcpy(words, message->bytes, sizeof words);
    *number = words[0];
    uint32_t crc = message_crc(message->bytes + MESSAGE_WORDS, message->length - MESSAGE_WORDS);
    return words[2] == crc && words[1] == ~(words[0] + crc);
}

#endif
