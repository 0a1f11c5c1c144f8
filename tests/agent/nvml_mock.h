/* What the stand-in for libnvidia-ml.so.1 reads from its control file, and the faults that it puts on. See nvml_mock.c. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long long ull;
enum {
    GO_ON = -1, OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
    TIMEOUT = 10, FUNCTION_NOT_FOUND = 13, LOST = 15, VERSION_MISMATCH = 25
};

static int open_count, opens;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct entry { const char *key, *value; } *table;
static size_t slots;
static char *content;
static int any_faults; /* whether the file asks for any: most calls need not look */

static size_t hash(const char *key) {
    ull sum = 14695981039346656037ULL;
    for (; *key; key++) sum = (sum ^ (unsigned char)*key) * 1099511628211ULL;
    return (size_t)sum;
}
static struct entry *slot_of(const char *key) {
    size_t at = hash(key) & (slots - 1);
    while (table[at].key && strcmp(table[at].key, key)) at = (at + 1) & (slots - 1);
    return &table[at];
}
static int ends(const char *text, const char *with) {
    size_t length = strlen(text), tail = strlen(with);
    return length >= tail && !strcmp(text + length - tail, with);
}

static void load(const char *path, size_t size) {
    FILE *file = fopen(path, "r");
    char *line, *rest = NULL;
    size_t lines = 1, got;
    if (!file) return;
    free(content);
    free(table);
    content = malloc(size + 1);
    got = fread(content, 1, size, file);
    content[got] = 0;
    fclose(file);
    for (line = content; *line; line++) lines += *line == '\n';
    for (slots = 16; slots < 2 * lines; slots *= 2) continue;
    table = calloc(slots, sizeof *table);
    any_faults = 0;
    for (line = strtok_r(content, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        char *value = strchr(line, ' ');
        struct entry *entry;
        if (value) *value++ = 0;
        entry = slot_of(line);
        entry->key = line;
        entry->value = value ? value : "";
        any_faults |= ends(line, ".error") || ends(line, ".hang") || ends(line, ".garbage") || ends(line, ".crash")
                   || ends(line, ".lost") || ends(line, ".opens");
    }
}

/* Read the file again if it is another one by now. Looked for when no call came for 10 µs, and every millisecond:
 * whoever writes it and then lets the agent read is heard, and a thousand calls in a row cost one look. */
static void refresh(void) {
    static struct stat known;
    static ull called, looked;
    struct timespec now;
    struct stat found;
    ull at, before = called;
    const char *path;
    clock_gettime(CLOCK_MONOTONIC, &now);
    called = at = (ull)now.tv_sec * 1000000000ULL + (ull)now.tv_nsec;
    if (table && at - before < 10000 && at - looked < 1000000) return;
    looked = at;
    path = getenv("NVML_MOCK");
    if (!path || stat(path, &found)) return;
    if (table && found.st_ino == known.st_ino && found.st_size == known.st_size
        && found.st_mtim.tv_sec == known.st_mtim.tv_sec && found.st_mtim.tv_nsec == known.st_mtim.tv_nsec) return;
    known = found;
    load(path, (size_t)found.st_size);
}

/* The value of a name, copied out; whether there is one. */
static int lookup(const char *key, char *value, size_t size) {
    struct entry *entry = NULL;
    pthread_mutex_lock(&lock);
    refresh();
    if (table) entry = slot_of(key);
    if (entry && entry->key) snprintf(value, size, "%s", entry->value);
    pthread_mutex_unlock(&lock);
    return entry && entry->key;
}
static ull number(const char *key, ull otherwise) {
    char value[64];
    return lookup(key, value, sizeof value) ? strtoull(value, NULL, 10) : otherwise;
}

/* A handle is the number of the card from 1 on, and above it that of the MIG instance from 1 on; none is the system. */
static long card_of(void *device) { return (long)((size_t)device & 0xFFFF) - 1; }
static long instance_of(void *device) { return (long)((size_t)device >> 16) - 1; }
static void *handle_of(long card, long instance) { return (void *)((size_t)(card + 1) | (size_t)(instance + 1) << 16); }

static const char *key_of(void *device, const char *name, const char *more, char key[128]) {
    if (!device) snprintf(key, 128, "system.%s%s", name, more);
    else if (instance_of(device) < 0) snprintf(key, 128, "%ld.%s%s", card_of(device), name, more);
    else snprintf(key, 128, "%ld.mig%ld.%s%s", card_of(device), instance_of(device), name, more);
    return key;
}
static ull value_of(void *device, const char *name, ull otherwise) {
    char key[128];
    return number(key_of(device, name, "", key), otherwise);
}
static int text_of(void *device, const char *name, char *value, size_t size) {
    char key[128];
    return lookup(key_of(device, name, "", key), value, size);
}

/* What every call does first: the fault that it was told to put on, or GO_ON. `out` is what it would fill. */
static int gate(void *device, const char *name, void *out, size_t size) {
    char key[128], value[64];
    long count = (long)number("count", 0);
    int error;
    if (device && !open_count) return UNINITIALIZED;
    if (device && card_of(device) >= count) return LOST; /* fell off the bus */
    if (!any_faults) return GO_ON;
    if (number(key_of(device, name, ".crash", key), 0)) abort();
    if (lookup(key_of(device, name, ".hang", key), value, sizeof value)) {
        double left = strtod(value, NULL);
        struct timespec pause = { (time_t)left, (long)((left - (double)(time_t)left) * 1e9) };
        if (left <= 0) for (;;) sleep(3600);
        while (nanosleep(&pause, &pause)) continue;
    }
    if (device && opens < (int)value_of(handle_of(card_of(device), -1), "opens", 0)) return LOST;
    error = device ? (int)value_of(handle_of(card_of(device), -1), "lost", OK) : OK;
    if (!error) error = (int)number(key_of(device, name, ".error", key), OK);
    if (error) return error;
    if (!number(key_of(device, name, ".garbage", key), 0)) return GO_ON;
    memset(out, 0xFF, size);
    return OK;
}
#define GATE(device, name, out, size) \
    do { int answer = gate(device, name, out, size); if (answer != GO_ON) return answer; } while (0)

/* The same for the older form of a call: a card that has no such reading has none in either form. That the driver does
 * not know the newer form, or its version, is no fault of the older. */
static int old_gate(void *device, const char *name, const char *newer, void *out, size_t size) {
    int answer = gate(device, name, out, size);
    (void)newer;
#ifndef OLD_DRIVER
    if (answer == GO_ON) {
        answer = gate(device, newer, out, size);
        if (answer == FUNCTION_NOT_FOUND || answer == VERSION_MISMATCH) answer = GO_ON;
    }
#endif
    return answer;
}
#define OLD_GATE(device, name, newer, out, size) \
    do { int answer = old_gate(device, name, newer, out, size); if (answer != GO_ON) return answer; } while (0)

/* One whole number under a name, or not supported. */
static int whole(void *device, const char *name, unsigned *out) {
    char value[64];
    if (!text_of(device, name, value, sizeof value)) return NOT_SUPPORTED;
    *out = (unsigned)strtoull(value, NULL, 10);
    return OK;
}
static int gated(void *device, const char *name, unsigned *out) {
    GATE(device, name, out, sizeof *out);
    return whole(device, name, out);
}
static int large(void *device, const char *name, ull *out) {
    char value[64];
    if (!text_of(device, name, value, sizeof value)) return NOT_SUPPORTED;
    *out = strtoull(value, NULL, 10);
    return OK;
}
static int text(void *device, const char *name, char *out, unsigned size) {
    char value[256];
    GATE(device, name, out, size);
    if (!text_of(device, name, value, sizeof value)) return NOT_SUPPORTED;
    if (strlen(value) >= size) return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return OK;
}
