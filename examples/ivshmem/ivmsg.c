/* ivmsg: messages through memory that machines share. See README.md. */
#define _GNU_SOURCE
#include "device.h"
#include "measure.h"
#include "message.h"
#include "queue.h"

#include <getopt.h>
#include <sched.h>

enum { GIVE_WAY_EVERY = 4096, A_MOMENT_MS = 5 };

struct options {
    const char *pci, *memory, *registers, *uio;
    unsigned side, order;
    uint32_t count, size;
    size_t offset, bytes;
    double timeout;
};

static struct ivshmem device = {.config = -1, .uio = -1};
static struct ivq queue;
static struct options options = {.side = 2, .order = 16, .count = 100000, .size = 64, .timeout = 10};
static unsigned long rings, sleeps;
static bool heard; /* a ring of the other side */

static void ring(bool wanted, uint32_t bell)
{
    if (wanted && device.registers) {
        device.registers[IV_DOORBELL] = bell;
        rings++;
    }
}

static void ring_sleeper(void)
{
    uint32_t bell = 0;
    bool wanted = ivq_must_ring(&queue, &bell);
    ring(wanted, bell);
}

/* What each wait waits for: a try that has an effect when it succeeds. */
typedef enum ivq_result attempt(void *about);

/* Try until it is no longer too early: by looking again and again, or asleep until the other side rings. */
static enum ivq_result until(attempt *try, void *about)
{
    enum ivq_result result = try(about);
    if (result != IVQ_AGAIN)
        return result;
    double deadline = now() + options.timeout;
    for (unsigned long turn = 1; (result = try(about)) == IVQ_AGAIN; turn++) {
        if (device.uio >= 0) {
            /* Who cannot ring lets us sleep for a moment only, and so does who may not have heard of us yet: a ring to
             * a peer that is not known is lost. Once it has rung we rely on it. */
            bool relied = heard && ivq_their(&queue, IVQ_W_RINGS) && queue.seen;
            ivq_sleep(&queue);
            result = try(about);
            if (result != IVQ_AGAIN)
                break;
            sleeps++;
            bool woken = iv_wait(&device, relied ? (int)(options.timeout * 1000) : A_MOMENT_MS);
            heard |= woken;
            result = woken || !relied ? IVQ_AGAIN : try(about);
            if (result == IVQ_OK)
                die("doorbell", "what was waited for was there, and nobody had rung");
            ivq_wake(&queue);
        } else if (turn % GIVE_WAY_EVERY == 0) {
            sched_yield();
        }
        if (result != IVQ_AGAIN)
            return result;
        if ((device.uio >= 0 || turn % GIVE_WAY_EVERY == 0) && now() > deadline)
            die("queue", queue.error  ? queue.error
                         : queue.seen ? "the other side does nothing any more"
                                      : "nobody is at the other side");
    }
    if (device.uio >= 0)
        ivq_wake(&queue);
    return result;
}

static enum ivq_result try_connect(void *about)
{
    (void)about;
    uint32_t seen = queue.seen;
    enum ivq_result result = ivq_connect(&queue);
    if (queue.seen != seen || result == IVQ_OK)
        ring_sleeper();
    return result;
}

static enum ivq_result try_put(void *about)
{
    struct message *message = about;
    return ivq_put(&queue, message->bytes, message->length);
}

static enum ivq_result try_get(void *about)
{
    struct message *message = about;
    return ivq_get(&queue, message->bytes, MESSAGE_LONGEST, &message->length);
}

static enum ivq_result try_drained(void *about)
{
    (void)about;
    return ivq_drained(&queue);
}

static void check(enum ivq_result result)
{
    if (result == IVQ_GONE)
        die("queue", "the other side left or started again");
    if (result == IVQ_BAD)
        die("queue", queue.error);
}

static void put(struct message *message)
{
    check(until(try_put, message));
    ring_sleeper();
}

static enum ivq_result get(struct message *message)
{
    enum ivq_result result = until(try_get, message);
    uint32_t bell = 0;
    bool wanted = result == IVQ_OK && ivq_must_ring_for_room(&queue, &bell);
    ring(wanted, bell);
    return result;
}

static void leave(void)
{
    ivq_leave(&queue);
    ring_sleeper();
}

static int send_all(void)
{
    static struct message message;
    double started = now();
    for (uint32_t number = 0; number < options.count; number++) {
        message_fill(&message, options.size, number);
        put(&message);
    }
    check(until(try_drained, NULL));
    printf("messages=%u lost=0 repeated=0 corrupt=0 seconds=%.3f rings=%lu sleeps=%lu\n", options.count,
           now() - started, rings, sleeps);
    return 0;
}

static int receive_all(void)
{
    static struct message message;
    uint32_t expected = 0, lost = 0, repeated = 0, corrupt = 0, received = 0, number = 0;
    enum ivq_result result = IVQ_OK;
    double started = now();
    while (expected < options.count && (result = get(&message)) == IVQ_OK) {
        received++;
        if (!message_intact(&message, &number)) {
            corrupt++;
        } else if (number < expected) {
            repeated++;
        } else {
            lost += number - expected;
            expected = number + 1;
        }
    }
    lost = lost + (options.count > expected ? options.count - expected : 0);
    lost -= lost < corrupt ? lost : corrupt; /* these came, and their numbers are not known */
    printf("messages=%u lost=%u repeated=%u corrupt=%u seconds=%.3f rings=%lu sleeps=%lu\n", received, lost, repeated,
           corrupt, now() - started, rings, sleeps);
    check(result);
    return lost || repeated || corrupt;
}

static int echo(void)
{
    static struct message message;
    enum ivq_result result;
    while ((result = get(&message)) == IVQ_OK)
        put(&message);
    if (result == IVQ_BAD)
        check(result);
    return 0;
}

static int ping(void)
{
    static struct message message;
    double *times = options.count ? calloc(options.count, sizeof *times) : NULL;
    if (!times)
        die("ping", "no messages");
    for (uint32_t number = 0; number < options.count; number++) {
        message_fill(&message, options.size, number);
        double started = now();
        put(&message);
        check(get(&message));
        times[number] = now() - started;
    }
    printf("round_trips=%u p50_us=%.2f p99_us=%.2f\n", options.count, percentile(times, options.count, 50) * 1e6,
           percentile(times, options.count, 99) * 1e6);
    free(times);
    return 0;
}

/* Copy between the shared memory and plain memory; beside it plain memory alone. */
static int copy(void)
{
    size_t bytes = device.bytes - options.offset;
    char *shared = (char *)device.memory + options.offset, *plain = malloc(bytes), *other = malloc(bytes);
    if (!plain || !other)
        die("copy", strerror(errno));
    memset(plain, 1, bytes);
    memset(other, 2, bytes);
    double ram = copied(plain, other, bytes), into = copied(shared, plain, bytes), out = copied(plain, shared, bytes);
    printf("bytes=%zu into_mib=%.1f out_mib=%.1f ram_mib=%.1f\n", bytes, into, out, ram);
    free(plain);
    free(other);
    return 0;
}

static int show(void)
{
    printf("bytes=%zu", device.bytes);
    if (device.registers)
        printf(" position=%u mask=%u status=%u", device.registers[IV_POSITION], device.registers[IV_MASK],
               device.registers[IV_STATUS]);
    puts("");
    return 0;
}

static const struct verb {
    const char *name;
    int (*run)(void);
    unsigned side;
    bool queue;
} verbs[] = {
    {"send", send_all, 0, true}, {"receive", receive_all, 1, true}, {"ping", ping, 0, true},
    {"echo", echo, 1, true},     {"copy", copy, 0, false},
    {"show", show, 0, false},
};

static const char USAGE[] =
    "usage: ivmsg send|receive|ping|echo|copy|show [OPTION…]\n"
    "  --poll                look for messages again and again (default)\n"
    "  --uio /dev/uioN       sleep until the other side rings\n"
    "  --pci ADDRESS         this device; default: the first ivshmem device\n"
    "  --memory FILE[@AT]    this memory instead; --registers FILE[@AT] for its doorbell, --bytes N: so much of it\n"
    "  --side 0|1            of the queue; default: 0 sends, 1 receives\n"
    "  --offset N            where in the memory the queue is\n"
    "  --order N             rings of 2^N bytes; default: 16; both sides say the same\n"
    "  --count N --size N    how many messages, of how many bytes; default: 100000 of 64\n"
    "  --timeout SECONDS     how long nothing may come; default: 10\n";

static void usage(void)
{
    fputs(USAGE, stderr);
    exit(2);
}

static unsigned long long number_of(const char *text)
{
    char *end;
    errno = 0;
    unsigned long long value = strtoull(text, &end, 0);
    if (errno || end == text || *end || *text == '-')
        die(text, "not a number");
    return value;
}

static void parse(int count, char **words)
{
    static const struct option known[] = {
        {"poll", 0, NULL, 'p'},   {"uio", 1, NULL, 'u'},    {"pci", 1, NULL, 'd'},   {"memory", 1, NULL, 'm'},
        {"registers", 1, NULL, 'r'}, {"side", 1, NULL, 's'}, {"offset", 1, NULL, 'o'}, {"order", 1, NULL, 'k'},
        {"count", 1, NULL, 'n'},  {"size", 1, NULL, 'l'},   {"timeout", 1, NULL, 't'}, {"bytes", 1, NULL, 'b'},
        {NULL, 0, NULL, 0},
    };
    for (int key; (key = getopt_long(count, words, "", known, NULL)) >= 0;) {
        switch (key) {
        case 'p': options.uio = NULL; break;
        case 'u': options.uio = optarg; break;
        case 'd': options.pci = optarg; break;
        case 'm': options.memory = optarg; break;
        case 'r': options.registers = optarg; break;
        case 's': options.side = (unsigned)number_of(optarg); break;
        case 'o': options.offset = (size_t)number_of(optarg); break;
        case 'k': options.order = (unsigned)number_of(optarg); break;
        case 'n': options.count = (uint32_t)number_of(optarg); break;
        case 'l': options.size = (uint32_t)number_of(optarg); break;
        case 't': options.timeout = atof(optarg); break;
        case 'b': options.bytes = (size_t)number_of(optarg); break;
        default: usage();
        }
    }
    if (optind != count)
        usage();
    if (options.size < MESSAGE_SHORTEST || options.size > MESSAGE_LONGEST)
        die("--size", "16 to 65536 bytes");
}

static void open_device(void)
{
    if (options.memory) {
        device.bytes = options.bytes;
        device.memory = iv_map(options.memory, &device.bytes);
        size_t bytes = IV_REGISTERS;
        if (options.registers)
            device.registers = iv_map(options.registers, &bytes);
    } else {
        iv_open_pci(&device, options.pci);
    }
    if (options.uio && !device.registers)
        die("--uio", "the registers are needed: --registers FILE");
    if (options.uio)
        iv_open_uio(&device, options.uio);
    if (options.offset % 64 || options.offset >= device.bytes)
        die("--offset", "a multiple of 64 within the memory");
}

int main(int count, char **words)
{
    const struct verb *verb = NULL;
    for (size_t i = 0; count > 1 && i < sizeof verbs / sizeof *verbs; i++)
        if (!strcmp(words[1], verbs[i].name))
            verb = &verbs[i];
    if (!verb)
        usage();
    parse(count - 1, words + 1);
    open_device();
    if (!verb->queue)
        return verb->run();
    uint32_t bell = device.registers ? device.registers[IV_POSITION] << 16 : 0;
    uint32_t random = (uint32_t)(now() * 1e6) ^ (uint32_t)getpid() << 20;
    unsigned side = options.side > 1 ? verb->side : options.side;
    if (!ivq_open(&queue, (char *)device.memory + options.offset, device.bytes - options.offset, side, options.order,
                  bell, device.registers, random))
        die("--order", queue.error);
    if (ivq_longest(&queue) < options.size)
        die("--size", "too long for half a ring: --order");
    ring_sleeper();
    check(until(try_connect, NULL));
    int status = verb->run();
    leave();
    return status;
}
