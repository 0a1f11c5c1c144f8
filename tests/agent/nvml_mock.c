/* A stand-in for libnvidia-ml.so.1 with the real ABI, driven by the file that $NVML_MOCK names.
 *
 * A line is "NAME VALUE", read again at every call: "driver 9" makes opening fail with that error, "count 2" is the number of
 * cards; "0.uuid", "0.name", "0.total", "0.used", "0.reserved", "0.temp", "0.load", "0.power" are card 0's readings,
 * "0.procs PID:BYTES,PID:BYTES" its processes; "0.lost 15" makes every call on it fail with that error,
 * "0.opens 2" until the library was opened so many times; "0.temp.error 3" only that reading. Struct layouts and error numbers: nvml.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long ull;
typedef struct { unsigned version; ull total, reserved, free, used; } memory_v2;
typedef struct { ull total, free, used; } memory_v1;
typedef struct { unsigned version, sensor; int temperature; } temperature_v1;
typedef struct { unsigned gpu, memory; } utilization;
typedef struct { unsigned pid; ull used; unsigned gpu_instance, compute_instance; } process;

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7 };
static int open_count, opens;

static int lookup(const char *name, char *value, size_t size) {
    char line[4096], key[256];
    const char *path = getenv("NVML_MOCK");
    FILE *file = path ? fopen(path, "r") : NULL;
    int found = 0;
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        int at = 0;
        if (sscanf(line, "%255s %n", key, &at) == 1 && strcmp(key, name) == 0) {
            snprintf(value, size, "%s", line + at);
            value[strcspn(value, "\n")] = 0;
            found = 1;
        }
    }
    fclose(file);
    return found;
}

static ull number(const char *name, ull otherwise) {
    char value[256];
    return lookup(name, value, sizeof value) ? strtoull(value, NULL, 10) : otherwise;
}

static const char *of(long card, const char *name) {
    static char key[256];
    snprintf(key, sizeof key, "%ld.%s", card, name);
    return key;
}

/* The error that a reading of a card gives now, or OK. */
static int failing(void *device, const char *name) {
    long card = (long)device - 1;
    char key[256];
    int lost;
    if (!open_count) return UNINITIALIZED;
    if (opens < (int)number(of(card, "opens"), 0)) return 15;
    lost = (int)number(of(card, "lost"), OK);
    if (lost) return lost;
    snprintf(key, sizeof key, "%ld.%s.error", card, name);
    return (int)number(key, OK);
}

int nvmlInitWithFlags(unsigned flags) {
    int error = (int)number("driver", OK);
    (void)flags;
    if (!error) open_count++, opens++;
    return error;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { if (!open_count) return UNINITIALIZED; open_count--; return OK; }
const char *nvmlErrorString(int error) {
    switch (error) {
        case 3: return "Not Supported";
        case 9: return "Driver Not Loaded";
        case 15: return "GPU is lost";
        default: return "Unknown Error";
    }
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    int error = (int)number("driver", OK);
    if (!open_count) return UNINITIALIZED;
    if (error) return error;
    *count = (unsigned)number("count", 0);
    return OK;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    if (!open_count) return UNINITIALIZED;
    if (index >= number("count", 0)) return INVALID;
    *device = (void *)(long)(index + 1);
    return failing(*device, "handle");
}
static int text(void *device, const char *name, char *out, unsigned size) {
    char value[256];
    int error = failing(device, name);
    if (error) return error;
    if (!lookup(of((long)device - 1, name), value, sizeof value)) return NOT_SUPPORTED;
    snprintf(out, size, "%s", value);
    return OK;
}
int nvmlDeviceGetUUID(void *device, char *out, unsigned size) { return text(device, "uuid", out, size); }
int nvmlDeviceGetName(void *device, char *out, unsigned size) { return text(device, "name", out, size); }

int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2 *memory) {
    long card = (long)device - 1;
    int error = failing(device, "memory");
    if (error) return error;
    if (memory->version != (sizeof(memory_v2) | 2u << 24)) return 25; /* argument version mismatch */
    memory->total = number(of(card, "total"), 0);
    memory->reserved = number(of(card, "reserved"), 0);
    memory->used = number(of(card, "used"), 0);
    memory->free = memory->total - memory->reserved - memory->used;
    return OK;
}
int nvmlDeviceGetMemoryInfo(void *device, memory_v1 *memory) {
    long card = (long)device - 1;
    int error = failing(device, "memory1");
    if (error) return error;
    memory->total = number(of(card, "total"), 0);
    memory->used = number(of(card, "used"), 0) + number(of(card, "reserved"), 0);
    memory->free = memory->total - memory->used;
    return OK;
}
int nvmlDeviceGetTemperatureV(void *device, temperature_v1 *temperature) {
    char value[64];
    int error = failing(device, "temp");
    if (error) return error;
    if (temperature->version != (sizeof(temperature_v1) | 1u << 24)) return 25;
    if (!lookup(of((long)device - 1, "temp"), value, sizeof value)) return NOT_SUPPORTED;
    temperature->temperature = atoi(value);
    return OK;
}
int nvmlDeviceGetTemperature(void *device, unsigned sensor, unsigned *temperature) {
    temperature_v1 v = { sizeof(temperature_v1) | 1u << 24, sensor, 0 };
    int error = failing(device, "temp1");
    if (!error) error = nvmlDeviceGetTemperatureV(device, &v);
    if (!error) *temperature = (unsigned)v.temperature;
    return error;
}
int nvmlDeviceGetUtilizationRates(void *device, utilization *load) {
    int error = failing(device, "load");
    if (error) return error;
    load->gpu = (unsigned)number(of((long)device - 1, "load"), 0);
    load->memory = 0;
    return OK;
}
int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
    int error = failing(device, "power");
    if (error) return error;
    *milliwatts = (unsigned)number(of((long)device - 1, "power"), 0);
    return OK;
}
static int processes(void *device, const char *name, unsigned *count, process *out) {
    char list[4096] = "", *item, *rest = NULL;
    unsigned room = *count, found = 0;
    int error = failing(device, name);
    if (error) return error;
    lookup(of((long)device - 1, name), list, sizeof list);
    for (item = strtok_r(list, ",", &rest); item; item = strtok_r(NULL, ",", &rest), found++) {
        char *bytes = strchr(item, ':');
        if (out && found < room) {
            out[found].pid = (unsigned)atoi(item);
            out[found].used = bytes ? strtoull(bytes + 1, NULL, 10) : ~0ULL; /* not available */
            out[found].gpu_instance = out[found].compute_instance = ~0u;
        }
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : OK;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned *n, process *p) { return processes(d, "procs", n, p); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *d, unsigned *n, process *p) { return processes(d, "drawing", n, p); }
int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *d, unsigned *n, process *p) { return processes(d, "mps", n, p); }
