/* A stand-in for NVIDIA's libnvidia-ml.so.1, driven by the file named in FAKE_NVML_STATE.
 *
 * Each line is `<gpu> <key> <value to the end of the line>`, read anew at every call, so that a test
 * can heat a GPU or lose it. GPU -1 is the machine. What a line does not say is NotSupported. There
 * is no nvmlDeviceGetRemappedRows: drivers older than ours lack functions too. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, NOT_SUPPORTED = 3, NOT_FOUND = 6, LOST = 15 };
typedef void *device; /* 1 + gpu, or 1000 + 10 * gpu + slice */
typedef struct { unsigned long long total, free, used; } memory;
typedef struct { unsigned gpu, memory; } utilization;

static int look(int gpu, const char *key, char *out, size_t size) {
    const char *path = getenv("FAKE_NVML_STATE");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[256], name[64];
    int number, at, found = 0;
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "%d %63s %n", &number, name, &at) == 2 && number == gpu && !strcmp(name, key)) {
            snprintf(out, size, "%s", line + at);
            found = 1;
        }
    }
    if (file) fclose(file);
    return found;
}

static long long number(int gpu, const char *key, long long otherwise) {
    char text[64];
    return look(gpu, key, text, sizeof text) ? atoll(text) : otherwise;
}

static int is_slice(device d) { return (long)d >= 1000; }
static int gpu_of(device d) { return is_slice(d) ? ((long)d - 1000) / 10 : (long)d - 1; }

static int text(device d, const char *key, char *out, unsigned size) {
    char keyed[64];
    if (number(gpu_of(d), "lost", 0)) return LOST;
    if (is_slice(d)) snprintf(keyed, sizeof keyed, "slice%ld.%s", ((long)d - 1000) % 10, key);
    else snprintf(keyed, sizeof keyed, "%s", key);
    return look(gpu_of(d), keyed, out, size) ? OK : NOT_SUPPORTED;
}

static int count(device d, const char *key, unsigned *out) {
    char said[64];
    int result = text(d, key, said, sizeof said);
    if (result == OK) *out = (unsigned)atoll(said);
    return result;
}

int nvmlInitWithFlags(unsigned flags) { return (int)number(-1, "init", OK); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int code) { return code == LOST ? "GPU is lost" : "an error"; }
int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    return look(-1, "driver", out, size) ? OK : NOT_SUPPORTED;
}
int nvmlSystemGetCudaDriverVersion_v2(int *out) {
    *out = (int)number(-1, "cuda", 0);
    return OK;
}
int nvmlDeviceGetCount_v2(unsigned *out) {
    *out = (unsigned)number(-1, "count", 0);
    return OK;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, device *out) {
    *out = (device)(long)(1 + index);
    return number((int)index, "lost", 0) ? LOST : OK;
}
int nvmlDeviceGetName(device d, char *out, unsigned size) { return text(d, "name", out, size); }
int nvmlDeviceGetUUID(device d, char *out, unsigned size) { return text(d, "uuid", out, size); }
int nvmlDeviceGetMemoryInfo(device d, memory *out) {
    unsigned total_mib, used_mib = 0;
    int result = count(d, "memory", &total_mib);
    if (result != OK) return result;
    count(d, "used", &used_mib);
    out->total = (unsigned long long)total_mib << 20;
    out->used = (unsigned long long)used_mib << 20;
    out->free = out->total - out->used;
    return OK;
}
int nvmlDeviceGetUtilizationRates(device d, utilization *out) {
    out->memory = 0;
    return count(d, "load", &out->gpu);
}
int nvmlDeviceGetTemperature(device d, int sensor, unsigned *out) { return count(d, "heat", out); }
int nvmlDeviceGetPowerUsage(device d, unsigned *out) { return count(d, "power", out); }
int nvmlDeviceGetMigMode(device d, unsigned *current, unsigned *pending) {
    *pending = 0;
    return count(d, "mig", current);
}
int nvmlDeviceGetMaxMigDeviceCount(device d, unsigned *out) {
    *out = 7;
    return OK;
}
int nvmlDeviceGetMigDeviceHandleByIndex(device d, unsigned index, device *out) {
    char said[96], key[64];
    snprintf(key, sizeof key, "slice%u.uuid", index);
    *out = (device)(long)(1000 + 10 * gpu_of(d) + (long)index);
    return look(gpu_of(d), key, said, sizeof said) ? OK : NOT_FOUND;
}
typedef struct { unsigned pid; unsigned long long used; unsigned gpu, compute; } process;
int nvmlDeviceGetComputeRunningProcesses_v3(device d, unsigned *size, process *out) {
    unsigned there, room = *size, i;
    int result = count(d, "processes", &there);
    if (result != OK) return result;
    *size = there;
    if (room < there) return 7; /* too small */
    for (i = 0; out && i < there; i++) out[i] = (process){1000 + i, 1 << 20, 0, 0};
    return OK;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(device d, unsigned long long *out) {
    unsigned reasons;
    int result = count(d, "throttle", &reasons);
    if (result == OK) *out = reasons;
    return result;
}
int nvmlDeviceGetMaxPcieLinkGeneration(device d, unsigned *out) { return count(d, "pcie", out); }
int nvmlDeviceGetMaxPcieLinkWidth(device d, unsigned *out) { return count(d, "lanes", out); }
