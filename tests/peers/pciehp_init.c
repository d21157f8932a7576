// The only program of the guest with pciehp: a shell of a few words on the console, as much as the test types.
// cat FILE, put FILE TEXT, list FOLDER, read DEVICE (sum of all bytes), write DEVICE (4 MiB of a pattern), off
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <termios.h>
#include <unistd.h>

static char block[65536];

static void cat(const char *path)
{
    int fd = open(path, O_RDONLY);
    long got;
    if (fd < 0) { perror(path); return; }
    while ((got = read(fd, block, sizeof block)) > 0) fwrite(block, 1, got, stdout);
    if (got < 0) perror(path);
    close(fd);
}

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) perror(path);
    if (fd >= 0) close(fd);
}

static void list(const char *path)
{
    DIR *folder = opendir(path);
    struct dirent *entry;
    if (!folder) { perror(path); return; }
    while ((entry = readdir(folder))) if (entry->d_name[0] != '.') puts(entry->d_name);
    closedir(folder);
}

static void sum(const char *path)
{
    int fd = open(path, O_RDONLY);
    unsigned long total = 0, bytes = 0;
    long got = -1;
    while (fd >= 0 && (got = read(fd, block, sizeof block)) > 0)
        for (long i = 0; i < got; i++, bytes++) total += (unsigned char)block[i];
    if (got < 0) perror(path);
    printf("sum %lu of %lu bytes\n", total, bytes);
    if (fd >= 0) close(fd);
}

static void fill(const char *path)
{
    int fd = open(path, O_WRONLY | O_SYNC);
    memset(block, 0x5A, sizeof block);
    for (int i = 0; i < 64; i++)
        if (fd < 0 || write(fd, block, sizeof block) < 0) { perror(path); break; }
    if (fd >= 0) close(fd);
}

int main(void)
{
    static char line[512];
    struct termios terminal;
    mount("proc", "/proc", "proc", 0, "");
    mount("sysfs", "/sys", "sysfs", 0, "");
    mount("devtmpfs", "/dev", "devtmpfs", 0, "");
    tcgetattr(0, &terminal);
    terminal.c_lflag &= ~ECHO;
    tcsetattr(0, TCSANOW, &terminal);
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    printf("ready\n");
    fflush(stdout);
    while (fgets(line, sizeof line, stdin)) {
        char *verb = strtok(line, " \r\n"), *first = strtok(NULL, " \r\n"), *second = strtok(NULL, "\r\n");
        if (!verb) continue;
        if (!strcmp(verb, "cat") && first) cat(first);
        else if (!strcmp(verb, "put") && second) put(first, second);
        else if (!strcmp(verb, "list") && first) list(first);
        else if (!strcmp(verb, "read") && first) sum(first);
        else if (!strcmp(verb, "write") && first) fill(first);
        else if (!strcmp(verb, "off")) { sync(); reboot(RB_POWER_OFF); }
        else printf("what is %s?\n", verb);
        printf("done\n");
        fflush(stdout);
    }
    reboot(RB_POWER_OFF);
    return 0;
}
