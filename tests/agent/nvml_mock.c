/* A stand-in for libnvidia-ml.so.1 with the real ABI, driven by the file that $NVML_MOCK names.
 *
 * A line is "NAME VALUE"; the file is read again when it is another one. "count 2" is the number of cards, "driver 9" makes
 * opening and counting fail with that error. What is card 0's begins with "0.", what is its MIG instance 1's with "0.mig1.".
 *
 *   uuid name total used reserved (bytes) temp margin slowdown shutdown maximum (°C) load memory_load (%) power limit (mW)
 *   energy (mJ) fan (%) clock_sm clock_memory clock_sm_max clock_memory_max (MHz) reasons (bits) capability (9.0)
 *   ecc (0, 1) corrected uncorrected corrected_total uncorrected_total  rows (CORRECTED UNCORRECTED PENDING FAILED)
 *   pcie_generation pcie_width pcie_generation_max pcie_width_max pcie_tx pcie_rx (kB/s) pcie_replays
 *   nvlinks (how many) nvlinks_down (the first so many) nvlink_errors (each counter of each link)
 *   memory_temp recovery (values of fields)  procs drawing mps (PID:BYTES,PID:BYTES)  procload (PID:PERCENT,...)
 *   procload_at (µs, else now)  mig (0, 1) instances (how many)  slices compute_slices memory_mb (of an instance)
 *   events (kinds, else XIDs)
 *
 * What is not there is not supported. "version" is the driver's, "cuda" CUDA's. "xids CARD:XID,CARD:XID" only grows: each
 * is told once to who registered for the card; card "?" is one that nobody knows.
 *
 * Faults: "0.lost 15" makes every call on card 0 fail with that error, "0.opens 2" until the library was opened so many
 * times. For one call, "0.CALL.error 3", "0.CALL.hang SECONDS" before it answers (0: for ever), "0.CALL.garbage 1" (all
 * bits set), "0.CALL.crash 1". CALL is the word that its function names below; "system." in place of "0." where it is of no
 * card: init shutdown count version cuda eventset wait. Built with -DOLD_DRIVER it has only calls of before 2020.
 *
 * Struct layouts and error numbers: nvml.h. */
#include "nvml_mock.h"

typedef struct { unsigned version; ull total, reserved, free, used; } memory_v2;
typedef struct { ull total, free, used; } memory_v1;
typedef struct { unsigned version, sensor; int temperature; } temperature_v1;
typedef struct { unsigned version; int margin; } margin_v1;
typedef struct { unsigned gpu, memory; } utilization;
typedef struct { unsigned pid; ull used; unsigned gpu_instance, compute_instance; } process;
typedef struct { unsigned pid; ull at; unsigned sm, memory, encoder, decoder; } process_load;
typedef struct { unsigned id, scope; long long at, latency; int type, error; union { unsigned ui; ull ull_; } value; } field;
typedef struct { void *device; ull type, data; unsigned gpu_instance, compute_instance; } event;
typedef struct { unsigned sms, copy, decoder, encoder, jpeg, ofa, slices, compute_slices; ull memory_mb; } attributes;
typedef struct {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
} pci;

/* The library and the system. */
int nvmlInitWithFlags(unsigned flags) {
    int error;
    GATE(NULL, "init", &flags, sizeof flags);
    error = (int)number("driver", OK);
    if (!error) open_count++, opens++;
    return error;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlInit(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) {
    int nothing;
    GATE(NULL, "shutdown", &nothing, sizeof nothing);
    if (!open_count) return UNINITIALIZED;
    open_count--;
    return OK;
}
const char *nvmlErrorString(int error) {
    static const char *const words[] = {
        "Success", "Uninitialized", "Invalid Argument", "Not Supported", "Insufficient Permissions", "Already Initialized",
        "Not Found", "Insufficient Size", "Insufficient External Power", "Driver Not Loaded", "Timeout",
        "Interrupt Request Issue", "NVML Shared Library Not Found", "Function Not Found", "Corrupted infoROM", "GPU is lost",
        "GPU requires restart", "The operating system has blocked the request.",
        "RM has detected an NVML/RM version mismatch.", "In use by another client", "Insufficient Memory", "No data",
    };
    return error >= 0 && error < (int)(sizeof words / sizeof *words) ? words[error] : "Unknown Error";
}
int nvmlDeviceGetCount_v2(unsigned *count) {
    int error;
    GATE(NULL, "count", count, sizeof *count);
    error = (int)number("driver", OK);
    if (!open_count) return UNINITIALIZED;
    if (error) return error;
    *count = (unsigned)number("count", 0);
    return OK;
}
int nvmlDeviceGetCount(unsigned *count) { return nvmlDeviceGetCount_v2(count); }
int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    char value[64];
    GATE(NULL, "version", out, size);
    if (!open_count) return UNINITIALIZED;
    if (!lookup("version", value, sizeof value)) return NOT_SUPPORTED;
    snprintf(out, size, "%s", value);
    return OK;
}
int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    GATE(NULL, "cuda", version, sizeof *version);
    *version = (int)number("cuda", 13000);
    return OK;
}
int nvmlSystemGetCudaDriverVersion(int *version) { return nvmlSystemGetCudaDriverVersion_v2(version); }

/* Who a card is. */
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    void *handle = handle_of(index, -1);
    if (!open_count) return UNINITIALIZED;
    if (index >= number("count", 0)) return INVALID;
    GATE(handle, "handle", device, sizeof *device);
    *device = handle;
    return OK;
}
int nvmlDeviceGetHandleByUUID(const char *uuid, void **device) {
    long count = (long)number("count", 0), card, instance;
    char value[256];
    if (!open_count) return UNINITIALIZED;
    for (card = 0; card < count; card++)
        for (instance = -1; instance < 8; instance++)
            if (text_of(handle_of(card, instance), "uuid", value, sizeof value) && !strcmp(value, uuid)) {
                *device = handle_of(card, instance);
                GATE(*device, "handle", device, sizeof *device);
                return OK;
            }
    return NOT_FOUND;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, void **device) {
    unsigned domain, bus;
    if (sscanf(bus_id, "%x:%x:", &domain, &bus) != 2 || !bus) return INVALID;
    return nvmlDeviceGetHandleByIndex_v2(bus - 1, device) ? NOT_FOUND : OK;
}
int nvmlDeviceGetUUID(void *d, char *out, unsigned size) { return text(d, "uuid", out, size); }
int nvmlDeviceGetName(void *d, char *out, unsigned size) { return text(d, "name", out, size); }
int nvmlDeviceGetSerial(void *d, char *out, unsigned size) { return text(d, "serial", out, size); }
int nvmlDeviceGetIndex(void *d, unsigned *out) {
    GATE(d, "index", out, sizeof *out);
    *out = (unsigned)card_of(d);
    return OK;
}
int nvmlDeviceGetMinorNumber(void *d, unsigned *out) { return nvmlDeviceGetIndex(d, out); }
int nvmlDeviceGetPciInfo_v3(void *d, pci *out) {
    GATE(d, "pci", out, sizeof *out);
    memset(out, 0, sizeof *out);
    out->bus = (unsigned)card_of(d) + 1;
    snprintf(out->legacy, sizeof out->legacy, "0000:%02X:00.0", out->bus);
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", out->bus);
    return OK;
}
int nvmlDeviceGetPciInfo_v2(void *d, pci *out) { return nvmlDeviceGetPciInfo_v3(d, out); }
int nvmlDeviceGetCudaComputeCapability(void *d, int *major, int *minor) {
    char value[64];
    int pair[2] = { 0, 0 }, error = gate(d, "capability", pair, sizeof pair);
    if (error > OK) return error;
    if (error == GO_ON) {
        if (!text_of(d, "capability", value, sizeof value)) return NOT_SUPPORTED;
        if (sscanf(value, "%d.%d", &pair[0], &pair[1]) != 2) return INVALID;
    }
    *major = pair[0];
    *minor = pair[1];
    return OK;
}

/* Memory, heat, load, power. */
int nvmlDeviceGetMemoryInfo(void *d, memory_v1 *memory) {
    OLD_GATE(d, "memory1", "memory", memory, sizeof *memory);
    memory->total = value_of(d, "total", 0);
    memory->used = value_of(d, "used", 0) + value_of(d, "reserved", 0);
    memory->free = memory->total - memory->used;
    return OK;
}
int nvmlDeviceGetBAR1MemoryInfo(void *d, memory_v1 *memory) {
    GATE(d, "bar1", memory, sizeof *memory);
    memory->total = memory->free = 1 << 28;
    memory->used = 0;
    return OK;
}
static int heat(void *d, unsigned sensor, int *out) {
    return sensor ? INVALID : whole(d, "temp", (unsigned *)out);
}
int nvmlDeviceGetTemperature(void *d, unsigned sensor, unsigned *out) {
    OLD_GATE(d, "temp1", "temp", out, sizeof *out);
    return heat(d, sensor, (int *)out);
}
int nvmlDeviceGetTemperatureThreshold(void *d, unsigned kind, unsigned *out) {
    static const char *const names[] = { "shutdown", "slowdown", "memory_maximum", "maximum" };
    GATE(d, "threshold", out, sizeof *out);
    return kind < 4 ? whole(d, names[kind], out) : INVALID;
}
int nvmlDeviceGetUtilizationRates(void *d, utilization *load) {
    GATE(d, "load", load, sizeof *load);
    load->memory = (unsigned)value_of(d, "memory_load", 0);
    return whole(d, "load", &load->gpu);
}
int nvmlDeviceGetPowerUsage(void *d, unsigned *out) { return gated(d, "power", out); }
int nvmlDeviceGetEnforcedPowerLimit(void *d, unsigned *out) { return gated(d, "limit", out); }
int nvmlDeviceGetPowerManagementLimit(void *d, unsigned *out) { return gated(d, "limit", out); }
int nvmlDeviceGetTotalEnergyConsumption(void *d, ull *out) {
    GATE(d, "energy", out, sizeof *out);
    return large(d, "energy", out);
}
int nvmlDeviceGetFanSpeed(void *d, unsigned *out) { return gated(d, "fan", out); }
static int coder(void *d, const char *name, unsigned *out, unsigned *period) {
    *period = 167000;
    return gated(d, name, out);
}
int nvmlDeviceGetEncoderUtilization(void *d, unsigned *out, unsigned *period) {
    return coder(d, "encoder", out, period);
}
int nvmlDeviceGetDecoderUtilization(void *d, unsigned *out, unsigned *period) {
    return coder(d, "decoder", out, period);
}
int nvmlDeviceGetPersistenceMode(void *d, unsigned *out) { return gated(d, "persistence", out); }
int nvmlDeviceGetPerformanceState(void *d, unsigned *out) { return gated(d, "pstate", out); }
int nvmlDeviceGetComputeMode(void *d, unsigned *out) { return gated(d, "compute_mode", out); }
int nvmlDeviceGetDriverModel(void *d, unsigned *now, unsigned *pending) { /* of Windows */
    (void)d, *now = *pending = 0;
    return NOT_SUPPORTED;
}
int nvmlDeviceGetDriverModel_v2(void *d, unsigned *now, unsigned *pending) {
    return nvmlDeviceGetDriverModel(d, now, pending);
}
int nvmlDeviceGetDisplayMode(void *d, unsigned *out) { return gated(d, "display", out); }
int nvmlDeviceGetDisplayActive(void *d, unsigned *out) { return gated(d, "display", out); }

/* Clocks. */
int nvmlDeviceGetClockInfo(void *d, unsigned kind, unsigned *out) {
    GATE(d, "clocks", out, sizeof *out);
    return kind < 3 ? whole(d, kind == 2 ? "clock_memory" : "clock_sm", out) : NOT_SUPPORTED;
}
int nvmlDeviceGetMaxClockInfo(void *d, unsigned kind, unsigned *out) {
    GATE(d, "max_clocks", out, sizeof *out);
    return kind < 3 ? whole(d, kind == 2 ? "clock_memory_max" : "clock_sm_max", out) : NOT_SUPPORTED;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(void *d, ull *out) {
    OLD_GATE(d, "reasons1", "reasons", out, sizeof *out);
    return large(d, "reasons", out);
}

/* Errors of memory. */
static int ecc(void *d, unsigned kind, unsigned since, ull *out) {
    static const char *const names[] = { "corrected", "uncorrected", "corrected_total", "uncorrected_total" };
    return kind < 2 && since < 2 ? large(d, names[kind + 2 * since], out) : INVALID;
}
int nvmlDeviceGetTotalEccErrors(void *d, unsigned kind, unsigned since, ull *out) {
    GATE(d, "ecc_errors", out, sizeof *out);
    return ecc(d, kind, since, out);
}
int nvmlDeviceGetMemoryErrorCounter(void *d, unsigned kind, unsigned since, unsigned place, ull *out) {
    OLD_GATE(d, "ecc_memory", "ecc_errors", out, sizeof *out);
    return place == 2 ? ecc(d, kind, since, out) : NOT_SUPPORTED;
}
int nvmlDeviceGetEccMode(void *d, unsigned *now, unsigned *pending) {
    int error = gated(d, "ecc", now);
    *pending = *now;
    return error;
}

/* Links. */
int nvmlDeviceGetCurrPcieLinkGeneration(void *d, unsigned *out) { return gated(d, "pcie_generation", out); }
int nvmlDeviceGetCurrPcieLinkWidth(void *d, unsigned *out) { return gated(d, "pcie_width", out); }
int nvmlDeviceGetMaxPcieLinkGeneration(void *d, unsigned *out) { return gated(d, "pcie_generation_max", out); }
int nvmlDeviceGetMaxPcieLinkWidth(void *d, unsigned *out) { return gated(d, "pcie_width_max", out); }
int nvmlDeviceGetPcieReplayCounter(void *d, unsigned *out) { return gated(d, "pcie_replays", out); }
int nvmlDeviceGetPcieThroughput(void *d, unsigned counter, unsigned *out) {
    GATE(d, "pcie", out, sizeof *out);
    return counter < 2 ? whole(d, counter ? "pcie_rx" : "pcie_tx", out) : INVALID;
}
static int link_of(void *d, unsigned link) {
    unsigned links;
    if (whole(d, "nvlinks", &links)) return NOT_SUPPORTED;
    return link < links ? OK : INVALID;
}
int nvmlDeviceGetNvLinkState(void *d, unsigned link, unsigned *out) {
    int error;
    GATE(d, "nvlink", out, sizeof *out);
    error = link_of(d, link);
    if (!error) *out = link >= value_of(d, "nvlinks_down", 0);
    return error;
}
int nvmlDeviceGetNvLinkErrorCounter(void *d, unsigned link, unsigned counter, ull *out) {
    GATE(d, "nvlink_errors", out, sizeof *out);
    if (link_of(d, link)) return link_of(d, link);
    return counter < 5 ? large(d, "nvlink_errors", out) : INVALID;
}

/* Processes. */
static int processes(void *d, const char *name, const char *old, unsigned *count, process *out) {
    char list[4096] = "", *item, *rest = NULL;
    unsigned room = *count, found = 0;
    size_t size = out ? room * sizeof *out : 0;
    int error = old ? old_gate(d, old, name, out, size) : gate(d, name, out, size);
    if (error == OK) { /* garbage: nobody knows how many */
        *count = 0xFFFFFFFF;
        return out ? OK : INSUFFICIENT_SIZE;
    }
    if (error != GO_ON) return error;
    text_of(d, name, list, sizeof list);
    for (item = strtok_r(list, ",", &rest); item; item = strtok_r(NULL, ",", &rest), found++) {
        char *bytes = strchr(item, ':');
        if (out && found < room) {
            out[found].pid = (unsigned)strtoul(item, NULL, 10);
            out[found].used = bytes ? strtoull(bytes + 1, NULL, 10) : ~0ULL; /* not available */
            out[found].gpu_instance = out[found].compute_instance = ~0u;
        }
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : OK;
}
int nvmlDeviceGetComputeRunningProcesses_v2(void *d, unsigned *n, process *p) {
    return processes(d, "procs", "procs1", n, p);
}
int nvmlDeviceGetGraphicsRunningProcesses_v2(void *d, unsigned *n, process *p) {
    return processes(d, "drawing", "drawing1", n, p);
}
int nvmlDeviceGetProcessUtilization(void *d, process_load *out, unsigned *count, ull since) {
    char list[4096], *item, *rest = NULL;
    unsigned room = *count, found = 0;
    struct timespec now;
    ull at;
    int error = gate(d, "procload", out, out ? room * sizeof *out : 0);
    if (error == OK) *count = 2;
    if (error != GO_ON) return error == OK && !out ? INSUFFICIENT_SIZE : error;
    if (!text_of(d, "procload", list, sizeof list)) return NOT_SUPPORTED;
    clock_gettime(CLOCK_REALTIME, &now);
    at = value_of(d, "procload_at", (ull)now.tv_sec * 1000000 + (ull)now.tv_nsec / 1000);
    for (item = at > since ? strtok_r(list, ",", &rest) : NULL; item; item = strtok_r(NULL, ",", &rest), found++) {
        char *share = strchr(item, ':');
        if (out && found < room) {
            memset(&out[found], 0, sizeof *out);
            out[found].pid = (unsigned)strtoul(item, NULL, 10);
            out[found].at = at;
            out[found].sm = share ? (unsigned)strtoul(share + 1, NULL, 10) : 0;
        }
    }
    *count = found;
    return !found ? NOT_FOUND : found > room ? INSUFFICIENT_SIZE : OK;
}

/* Events. */
typedef struct { ull cards, told; } event_set;
static ull xids(ull after, event *out) { /* how many there are; the one after so many */
    char list[4096] = "", *item, *rest = NULL;
    ull count = 0;
    lookup("xids", list, sizeof list);
    for (item = strtok_r(list, ",", &rest); item; item = strtok_r(NULL, ",", &rest)) {
        char *xid = strchr(item, ':');
        if (count++ != after || !out || !xid) continue;
        memset(out, 0, sizeof *out);
        out->device = *item == '?' ? (void *)0xFFFF : handle_of(strtol(item, NULL, 10), -1);
        out->type = 8; /* nvmlEventTypeXidCriticalError */
        out->data = strtoull(xid + 1, NULL, 10);
        out->gpu_instance = out->compute_instance = ~0u;
    }
    return count;
}
int nvmlEventSetCreate(event_set **set) {
    GATE(NULL, "eventset", set, sizeof *set);
    if (!open_count) return UNINITIALIZED;
    *set = calloc(1, sizeof **set);
    (*set)->told = xids(0, NULL);
    return OK;
}
int nvmlEventSetFree(event_set *set) { free(set); return OK; }
int nvmlDeviceGetSupportedEventTypes(void *d, ull *out) {
    GATE(d, "events", out, sizeof *out);
    *out = value_of(d, "events", 8);
    return OK;
}
int nvmlDeviceRegisterEvents(void *d, ull types, event_set *set) {
    GATE(d, "register", &types, 0);
    if (types & ~value_of(d, "events", 8)) return NOT_SUPPORTED;
    set->cards |= 1ULL << (card_of(d) & 63);
    return OK;
}
int nvmlEventSetWait_v2(event_set *set, event *out, unsigned milliseconds) {
    GATE(NULL, "wait", out, sizeof *out);
    for (;; milliseconds--) {
        ull count = xids(0, NULL);
        while (set->told < count) {
            xids(set->told++, out);
            if (out->device == (void *)0xFFFF || set->cards >> (card_of(out->device) & 63) & 1) return OK;
        }
        if (!milliseconds) return TIMEOUT;
        usleep(1000);
    }
}

#ifndef OLD_DRIVER
int nvmlDeviceGetMemoryInfo_v2(void *d, memory_v2 *memory) {
    if (memory->version != (sizeof *memory | 2u << 24)) return VERSION_MISMATCH;
    GATE(d, "memory", memory, sizeof *memory);
    memory->total = value_of(d, "total", 0);
    memory->reserved = value_of(d, "reserved", 0);
    memory->used = value_of(d, "used", 0);
    memory->free = memory->total - memory->reserved - memory->used;
    return OK;
}
int nvmlDeviceGetTemperatureV(void *d, temperature_v1 *out) {
    if (out->version != (sizeof *out | 1u << 24)) return VERSION_MISMATCH;
    GATE(d, "temp", out, sizeof *out);
    return heat(d, out->sensor, &out->temperature);
}
int nvmlDeviceGetMarginTemperature(void *d, margin_v1 *out) {
    if (out->version != (sizeof *out | 1u << 24)) return VERSION_MISMATCH;
    GATE(d, "margin", out, sizeof *out);
    return whole(d, "margin", (unsigned *)&out->margin);
}
int nvmlDeviceGetCurrentClocksEventReasons(void *d, ull *out) {
    GATE(d, "reasons", out, sizeof *out);
    return large(d, "reasons", out);
}
int nvmlDeviceGetRemappedRows(void *d, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failed) {
    char value[128];
    unsigned rows[4];
    int error = gate(d, "rows", rows, sizeof rows);
    if (error > OK) return error;
    if (error == GO_ON) {
        if (!text_of(d, "rows", value, sizeof value)) return NOT_SUPPORTED;
        if (sscanf(value, "%u %u %u %u", &rows[0], &rows[1], &rows[2], &rows[3]) != 4) return INVALID;
    }
    *corrected = rows[0], *uncorrected = rows[1], *pending = rows[2], *failed = rows[3];
    return OK;
}
int nvmlDeviceGetFieldValues(void *d, int count, field *out) {
    int at;
    GATE(d, "fields", out, (size_t)count * sizeof *out);
    for (at = 0; at < count; at++) {
        const char *name = out[at].id == 82 ? "memory_temp" : out[at].id == 230 ? "recovery" : "";
        out[at].type = 1; /* unsigned int */
        out[at].error = *name ? gated(d, name, &out[at].value.ui) : NOT_SUPPORTED;
    }
    return OK;
}
int nvmlDeviceGetComputeRunningProcesses_v3(void *d, unsigned *n, process *p) {
    return processes(d, "procs", NULL, n, p);
}
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *d, unsigned *n, process *p) {
    return processes(d, "drawing", NULL, n, p);
}
int nvmlDeviceGetMPSComputeRunningProcesses_v3(void *d, unsigned *n, process *p) {
    return processes(d, "mps", NULL, n, p);
}
int nvmlDeviceGetMPSComputeRunningProcesses_v2(void *d, unsigned *n, process *p) {
    return processes(d, "mps", "mps1", n, p);
}

/* Multi-instance GPUs. */
int nvmlDeviceGetMigMode(void *d, unsigned *now, unsigned *pending) {
    int error;
    if (instance_of(d) >= 0) return NOT_SUPPORTED;
    error = gated(d, "mig", now);
    *pending = *now;
    return error;
}
int nvmlDeviceGetMaxMigDeviceCount(void *d, unsigned *out) {
    unsigned mode;
    GATE(d, "mig_count", out, sizeof *out);
    *out = whole(d, "mig", &mode) ? 0 : 7;
    return OK;
}
int nvmlDeviceGetMigDeviceHandleByIndex(void *d, unsigned index, void **out) {
    GATE(d, "mig_handle", out, sizeof *out);
    if (index >= 7) return INVALID;
    if (value_of(d, "mig", 0) != 1 || index >= value_of(d, "instances", 0)) return NOT_FOUND;
    *out = handle_of(card_of(d), (long)index);
    return OK;
}
int nvmlDeviceIsMigDeviceHandle(void *d, unsigned *out) { *out = instance_of(d) >= 0; return OK; }
int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *d, void **out) {
    if (instance_of(d) < 0) return INVALID;
    *out = handle_of(card_of(d), -1);
    return OK;
}
int nvmlDeviceGetGpuInstanceId(void *d, unsigned *out) {
    *out = (unsigned)instance_of(d) + 1;
    return instance_of(d) < 0 ? NOT_SUPPORTED : OK;
}
int nvmlDeviceGetComputeInstanceId(void *d, unsigned *out) { *out = 0; return instance_of(d) < 0 ? NOT_SUPPORTED : OK; }
int nvmlDeviceGetAttributes_v2(void *d, attributes *out) {
    GATE(d, "attributes", out, sizeof *out);
    if (instance_of(d) < 0) return NOT_SUPPORTED;
    memset(out, 0, sizeof *out);
    out->slices = (unsigned)value_of(d, "slices", 1);
    out->compute_slices = (unsigned)value_of(d, "compute_slices", out->slices);
    return large(d, "memory_mb", &out->memory_mb);
}
#endif
