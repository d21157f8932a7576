/*
 * An ivshmem device as a program of the guest has it: memory and registers by mmap of sysfs or any other file, the
 * interrupt by UIO. No driver of its own: `uio_pci_generic` is part of Linux. On the host the memory is a plain file.
 */
#ifndef IVSHMEM_DEVICE_H
#define IVSHMEM_DEVICE_H

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum ivshmem_register { IV_MASK = 0, IV_STATUS = 1, IV_POSITION = 2, IV_DOORBELL = 3 };

enum { IV_REGISTERS = 256, PCI_COMMAND = 4, PCI_MEMORY = 2, PCI_INTX_DISABLE = 0x400 };

struct ivshmem {
    void *memory;
    size_t bytes;
    volatile uint32_t *registers; /* NULL: it cannot ring */
    int config;                   /* of PCI; -1: there is none */
    uint16_t command;             /* of PCI, with which it answers and interrupts */
    int uio;                      /* -1: it is not rung */
};

static inline void die(const char *what, const char *why)
{
    fflush(stdout);
    fprintf(stderr, "ivmsg: %s: %s\n", what, why);
    exit(1);
}

/* Map a file given as PATH or PATH@OFFSET; `*bytes` is 0 for all that there is. */
static inline void *iv_map(const char *given, size_t *bytes)
{
    char path[4096];
    snprintf(path, sizeof path, "%s", given);
    char *sign = strrchr(path, '@'), *end = NULL;
    off_t offset = sign ? (off_t)strtoull(sign + 1, &end, 0) : 0;
    if (sign && end != sign + 1 && !*end)
        *sign = 0;
    else
        offset = 0;
    int fd = open(path, O_RDWR | O_SYNC | O_CLOEXEC);
    struct stat status;
    if (fd < 0 || fstat(fd, &status))
        die(path, strerror(errno));
    if (!*bytes)
        *bytes = status.st_size > offset ? (size_t)(status.st_size - offset) : 0;
    if (!*bytes)
        die(given, "how large it is does not show: --bytes");
    void *mapped = mmap(NULL, *bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
    if (mapped == MAP_FAILED)
        die(given, strerror(errno));
    close(fd);
    return mapped;
}

/* Write the path of the guest's first ivshmem device, or of the one at the PCI address `wanted`. */
static inline void iv_find(const char *wanted, char *folder, size_t room)
{
    glob_t found;
    if (glob("/sys/bus/pci/devices/*", 0, NULL, &found))
        die("/sys/bus/pci/devices", "there is no PCI: --memory FILE");
    for (size_t i = 0; i < found.gl_pathc; i++) {
        char id[64] = "", path[512];
        snprintf(path, sizeof path, "%s/modalias", found.gl_pathv[i]);
        FILE *file = fopen(path, "r");
        if (!file)
            continue;
        char *line = fgets(id, sizeof id, file);
        fclose(file);
        if (line && !strncmp(id, "pci:v00001AF4d00001110", 22) && (!wanted || strstr(found.gl_pathv[i], wanted))) {
            snprintf(folder, room, "%s", found.gl_pathv[i]);
            globfree(&found);
            return;
        }
    }
    die(wanted ? wanted : "PCI", "there is no ivshmem device");
}

/* Open the device on PCI. */
static inline void iv_open_pci(struct ivshmem *device, const char *wanted)
{
    char folder[256], path[300];
    iv_find(wanted, folder, sizeof folder);
    snprintf(path, sizeof path, "%s/config", folder);
    device->config = open(path, O_RDWR | O_CLOEXEC);
    if (device->config < 0 || pread(device->config, &device->command, 2, PCI_COMMAND) != 2)
        die(path, strerror(errno));
    device->command |= PCI_MEMORY; /* without a driver nobody else has said so */
    device->command &= (uint16_t)~PCI_INTX_DISABLE;
    if (pwrite(device->config, &device->command, 2, PCI_COMMAND) != 2)
        die(path, strerror(errno));
    size_t bytes = IV_REGISTERS;
    snprintf(path, sizeof path, "%s/resource0", folder);
    device->registers = iv_map(path, &bytes);
    snprintf(path, sizeof path, "%s/resource2", folder);
    device->bytes = 0;
    device->memory = iv_map(path, &device->bytes);
}

/* Have the interrupt raised again: UIO has switched it off until we looked. A ring meanwhile is in the status. */
static inline void iv_arm(const struct ivshmem *device)
{
    (void)device->registers[IV_STATUS]; /* reading lowers the wire */
    uint32_t on = 1;
    if (device->config >= 0 ? pwrite(device->config, &device->command, 2, PCI_COMMAND) != 2
                            : write(device->uio, &on, sizeof on) != sizeof on)
        die("interrupt", strerror(errno));
}

static inline void iv_open_uio(struct ivshmem *device, const char *path)
{
    device->uio = open(path, O_RDWR | O_CLOEXEC);
    if (device->uio < 0)
        die(path, strerror(errno));
    struct pollfd ready = {.fd = device->uio, .events = POLLIN};
    if (poll(&ready, 1, 0) >= 0 && ready.revents & (POLLERR | POLLHUP))
        die(path, "the device has no interrupt for UIO (QEMU's has none): --poll");
    device->registers[IV_MASK] = 1;
    iv_arm(device);
}

/* Sleep until the device rings; false: not in time. */
static inline bool iv_wait(const struct ivshmem *device, int milliseconds)
{
    struct pollfd ready = {.fd = device->uio, .events = POLLIN};
    uint32_t count;
    if (poll(&ready, 1, milliseconds) <= 0)
        return false;
    if (read(device->uio, &count, sizeof count) != sizeof count)
        die("uio", strerror(errno));
    iv_arm(device);
    return true;
}

#endif
