/* A libnvidia-ml.so.1 without a GPU: what it answers stands in the file that NVML_STUB_FILE names.
 *
 * The file is read anew whenever it is another one, so a test changes the hardware by renaming a new
 * file over it. One directive a line; those after `gpu` belong to what stands above:
 *
 *   driver VERSION
 *   init CODE                       nvmlInit fails
 *   epoch N                         the driver was reset: calls fail until the next nvmlInit
 *   denied                          calls for the privileged fail
 *   stale                           handles of MIG devices rot when a new file is read
 *   fail FUNCTION CODE              every call of that function fails
 *   hang FUNCTION                   no call of that function ever returns
 *   after CALLS PATH                from that call on, counted since this file was read, PATH holds
 *   gpu UUID TOTAL RESERVED USED MIG NAME     MIB; MIG is 0, 1 or - (not capable)
 *   fault CODE                      every call on this GPU fails
 *   minor N                         of /dev/nvidiaN; the index unless given
 *   slice SLOT GI CI UUID START SIZE PROFILE COMPUTE MIB USED NAME
 *   process MIB                     adds to what is used of the slice, or of the GPU
 *   xid CODE [GI [CI]]              happens on this GPU when the file is read; of no instance unless given
 *
 * Without `stale` a handle means whatever sits in its slot now: the worst a driver could do.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef int nvmlReturn_t;
typedef void *nvmlDevice_t;
typedef void *nvmlGpuInstance_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } nvmlMemory_v2_t;
typedef struct {
    unsigned multiprocessorCount, sharedCopyEngineCount, sharedDecoderCount, sharedEncoderCount,
        sharedJpegCount, sharedOfaCount, gpuInstanceSliceCount, computeInstanceSliceCount;
    unsigned long long memorySizeMB;
} nvmlDeviceAttributes_t;
typedef struct { unsigned start, size; } nvmlGpuInstancePlacement_t;
typedef struct {
    nvmlDevice_t device;
    unsigned id, profileId;
    nvmlGpuInstancePlacement_t placement;
} nvmlGpuInstanceInfo_t;
typedef struct {
    nvmlDevice_t device;
    unsigned long long eventType, eventData;
    unsigned gpuInstanceId, computeInstanceId;
} nvmlEventData_t;

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NO_PERMISSION = 4,
    NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, TIMEOUT = 10, VERSION_MISMATCH = 25
};
enum { MOST_GPUS = 16, MOST_SLICES = 8, MOST_FAILURES = 16, MEMORY_V2 = 0x02000028 };
enum { MOST_SETS = 32, MOST_EVENTS = 256, XID_CRITICAL = 8 };

typedef struct {
    int present;
    unsigned gi, ci, start, size, profile, compute;
    unsigned long long mib, used;
    char uuid[96], name[96];
} slice_t;

typedef struct {
    char uuid[96], name[96];
    unsigned long long total, reserved, used;
    int mig, fault, minor; /* mig: -1 not capable */
    slice_t slices[MOST_SLICES];
} gpu_t;

static struct {
    char driver[80];
    int init, denied, stale, gpus;
    long epoch;
    gpu_t gpu[MOST_GPUS];
    struct { char function[80]; int code; } fail[MOST_FAILURES];
    int failures;
    char hang[80];
    long after;
    char next[4096];
} now;

static struct stat seen;
static long calls, began_epoch, generation;
static int initialized;

/* Event sets, each with what happened on the GPUs it was told to watch and was not fetched yet. */
typedef struct {
    int used, watched[MOST_GPUS], count, spoiled;
    nvmlEventData_t events[MOST_EVENTS];
} set_t;
static set_t sets[MOST_SETS];

static void happen(int gpu, unsigned long long xid, unsigned gi, unsigned ci) {
    for (set_t *set = sets; set < sets + MOST_SETS; set++)
        if (set->used && set->watched[gpu] && set->count < MOST_EVENTS)
            set->events[set->count++] = (nvmlEventData_t){
                (nvmlDevice_t)(uintptr_t)(gpu + 1), XID_CRITICAL, xid, gi, ci};
}

static void parse(FILE *file) {
    char line[4608], word[32], flag[8];
    gpu_t *gpu = NULL;
    slice_t *slice = NULL;
    memset(&now, 0, sizeof now);
    now.after = -1;
    while (fgets(line, sizeof line, file) && sscanf(line, "%31s", word) == 1) {
        if (!strcmp(word, "driver")) sscanf(line, "%*s %79s", now.driver);
        else if (!strcmp(word, "init")) sscanf(line, "%*s %d", &now.init);
        else if (!strcmp(word, "epoch")) sscanf(line, "%*s %ld", &now.epoch);
        else if (!strcmp(word, "denied")) now.denied = 1;
        else if (!strcmp(word, "stale")) now.stale = 1;
        else if (!strcmp(word, "after")) sscanf(line, "%*s %ld %4095s", &now.after, now.next);
        else if (!strcmp(word, "fail") && now.failures < MOST_FAILURES) {
            sscanf(line, "%*s %79s %d", now.fail[now.failures].function,
                   &now.fail[now.failures].code);
            now.failures++;
        } else if (!strcmp(word, "hang")) sscanf(line, "%*s %79s", now.hang);
        else if (!strcmp(word, "gpu") && now.gpus < MOST_GPUS) {
            gpu = &now.gpu[now.gpus++];
            slice = NULL;
            sscanf(line, "%*s %95s %llu %llu %llu %7s %95[^\n]", gpu->uuid, &gpu->total,
                   &gpu->reserved, &gpu->used, flag, gpu->name);
            gpu->minor = now.gpus - 1;
            gpu->mig = flag[0] == '-' ? -1 : flag[0] == '1';
        } else if (!strcmp(word, "fault") && gpu) sscanf(line, "%*s %d", &gpu->fault);
        else if (!strcmp(word, "xid") && gpu) {
            unsigned long long code = 0;
            unsigned gi = ~0u, ci = ~0u;
            sscanf(line, "%*s %llu %u %u", &code, &gi, &ci);
            happen(now.gpus - 1, code, gi, ci);
        } else if (!strcmp(word, "minor") && gpu) sscanf(line, "%*s %d", &gpu->minor);
        else if (!strcmp(word, "slice") && gpu) {
            unsigned slot = 0;
            sscanf(line, "%*s %u", &slot);
            slice = &gpu->slices[slot % MOST_SLICES];
            slice->present = 1;
            sscanf(line, "%*s %*u %u %u %95s %u %u %u %u %llu %llu %95[^\n]", &slice->gi, &slice->ci,
                   slice->uuid, &slice->start, &slice->size, &slice->profile, &slice->compute,
                   &slice->mib, &slice->used, slice->name);
        } else if (!strcmp(word, "process") && gpu) {
            unsigned long long mib = 0;
            sscanf(line, "%*s %llu", &mib);
            if (slice) slice->used += mib;
            else gpu->used += mib;
        }
    }
}

static void take(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) return;
    parse(file);
    fclose(file);
    generation++;
}

/* Take in the file if it is another one than that last read, or what `after` leads to. */
static void look(void) {
    const char *path = getenv("NVML_STUB_FILE");
    struct stat at;
    if (path && !stat(path, &at) && (at.st_ino != seen.st_ino || at.st_dev != seen.st_dev ||
                                     at.st_mtim.tv_sec != seen.st_mtim.tv_sec ||
                                     at.st_mtim.tv_nsec != seen.st_mtim.tv_nsec)) {
        seen = at;
        calls = 0;
        take(path);
    } else if (now.after >= 0 && calls >= now.after) {
        char next[sizeof now.next];
        snprintf(next, sizeof next, "%s", now.next);
        take(next);
    }
}

static nvmlReturn_t begin(const char *function) {
    look();
    calls++;
    while (!strcmp(function, now.hang)) pause();
    for (int i = 0; i < now.failures; i++)
        if (!strcmp(function, now.fail[i].function)) return now.fail[i].code;
    return initialized && began_epoch == now.epoch ? SUCCESS : UNINITIALIZED;
}

/* Handles: a GPU is its index + 1; a MIG device has 0x10000 and its slot, a GPU instance 0x20000 and
 * its id above that; with the generation above all if handles rot. */
enum { MIG = 0x10000, INSTANCE = 0x20000 };

static void *handle(int gpu, int kind, int number) {
    uintptr_t made = (uintptr_t)(gpu + 1) | (uintptr_t)kind | ((uintptr_t)number << 8);
    return (void *)(made | (now.stale && kind ? (uintptr_t)generation << 20 : 0));
}

static nvmlReturn_t find(void *given, gpu_t **gpu, slice_t **slice) {
    uintptr_t value = (uintptr_t)given;
    int index = (int)(value & 0xff) - 1, number = (int)(value >> 8 & 0xff);
    *slice = NULL;
    if (index < 0 || index >= now.gpus) return INVALID_ARGUMENT;
    *gpu = &now.gpu[index];
    if ((*gpu)->fault) return (*gpu)->fault;
    if (!(value & (MIG | INSTANCE))) return SUCCESS;
    if (now.stale && value >> 20 != (uintptr_t)generation) return INVALID_ARGUMENT;
    for (int slot = 0; slot < MOST_SLICES; slot++) {
        slice_t *each = &(*gpu)->slices[slot];
        int same = value & MIG ? slot == number : each->gi == (unsigned)number;
        if (each->present && (*gpu)->mig == 1 && same) {
            *slice = each;
            return SUCCESS;
        }
    }
    return INVALID_ARGUMENT;
}

#define ENTER() nvmlReturn_t code = begin(__func__); if (code) return code
#define FIND() gpu_t *gpu = NULL; slice_t *slice = NULL; ENTER(); \
    code = find(device, &gpu, &slice); if (code) return code

nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    look();
    if (now.init) return now.init;
    initialized = 1;
    began_epoch = now.epoch;
    return SUCCESS;
}
nvmlReturn_t nvmlShutdown(void) {
    if (!initialized) return UNINITIALIZED;
    initialized = 0;
    return SUCCESS;
}
const char *nvmlErrorString(nvmlReturn_t code) { (void)code; return "an error of the stub"; }

static nvmlReturn_t text(const char *from, char *to, unsigned length) {
    if (strlen(from) >= length) return INSUFFICIENT_SIZE;
    strcpy(to, from);
    return SUCCESS;
}
nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length) {
    ENTER();
    return text(now.driver, version, length);
}
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) {
    ENTER();
    *count = (unsigned)now.gpus;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device) {
    ENTER();
    if (index >= (unsigned)now.gpus) return INVALID_ARGUMENT;
    *device = handle((int)index, 0, 0);
    return now.gpu[index].fault;
}
nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned length) {
    FIND();
    return text(slice ? slice->uuid : gpu->uuid, uuid, length);
}
nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned length) {
    FIND();
    return text(slice ? slice->name : gpu->name, name, length);
}
nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned *minor) {
    FIND();
    if (slice) return NOT_SUPPORTED;
    *minor = (unsigned)gpu->minor;
    return SUCCESS;
}
static void amounts(const gpu_t *gpu, const slice_t *slice, unsigned long long *total,
                    unsigned long long *reserved, unsigned long long *used) {
    *total = (slice ? slice->mib : gpu->total) << 20;
    *reserved = (slice ? 0 : gpu->reserved) << 20;
    *used = (slice ? slice->used : gpu->used) << 20;
}
nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    unsigned long long reserved;
    FIND();
    amounts(gpu, slice, &memory->total, &reserved, &memory->used);
    memory->used += reserved; /* as version 1 counts */
    memory->free = memory->total - memory->used;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    FIND();
    if (memory->version != MEMORY_V2) return VERSION_MISMATCH;
    amounts(gpu, slice, &memory->total, &memory->reserved, &memory->used);
    memory->free = memory->total - memory->reserved - memory->used;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *current, unsigned *pending) {
    FIND();
    if (gpu->mig < 0) return NOT_SUPPORTED;
    *current = *pending = (unsigned)gpu->mig;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned *count) {
    FIND();
    *count = gpu->mig == 1 ? MOST_SLICES : 0;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned index,
                                                 nvmlDevice_t *mig) {
    FIND();
    if (gpu->mig != 1 || index >= MOST_SLICES || !gpu->slices[index].present) return NOT_FOUND;
    *mig = handle((int)(gpu - now.gpu), MIG, (int)index);
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetGpuInstanceId(nvmlDevice_t device, unsigned *id) {
    FIND();
    if (!slice) return NOT_SUPPORTED;
    *id = slice->gi;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetComputeInstanceId(nvmlDevice_t device, unsigned *id) {
    FIND();
    if (!slice) return NOT_SUPPORTED;
    *id = slice->ci;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetAttributes_v2(nvmlDevice_t device, nvmlDeviceAttributes_t *attributes) {
    FIND();
    if (!slice) return NOT_SUPPORTED;
    memset(attributes, 0, sizeof *attributes);
    attributes->gpuInstanceSliceCount = attributes->computeInstanceSliceCount = slice->compute;
    attributes->memorySizeMB = slice->mib;
    return SUCCESS;
}
nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t device, unsigned id,
                                          nvmlGpuInstance_t *instance) {
    FIND();
    if (now.denied) return NO_PERMISSION;
    for (int slot = 0; slot < MOST_SLICES; slot++)
        if (gpu->mig == 1 && gpu->slices[slot].present && gpu->slices[slot].gi == id) {
            *instance = handle((int)(gpu - now.gpu), INSTANCE, (int)id);
            return SUCCESS;
        }
    return NOT_FOUND;
}
nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t device, nvmlGpuInstanceInfo_t *info) {
    FIND();
    if (now.denied) return NO_PERMISSION;
    info->device = handle((int)(gpu - now.gpu), 0, 0);
    info->id = slice->gi;
    info->profileId = slice->profile;
    info->placement.start = slice->start;
    info->placement.size = slice->size;
    return SUCCESS;
}

nvmlReturn_t nvmlEventSetCreate(set_t **made) {
    ENTER();
    for (set_t *set = sets; set < sets + MOST_SETS; set++)
        if (!set->used) {
            memset(set, 0, sizeof *set);
            set->used = 1;
            *made = set;
            return SUCCESS;
        }
    return INSUFFICIENT_SIZE;
}
nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, set_t *set) {
    FIND();
    if (slice || types != XID_CRITICAL) return NOT_SUPPORTED;
    set->watched[gpu - now.gpu] = 1;
    return SUCCESS;
}
nvmlReturn_t nvmlEventSetWait_v2(set_t *set, nvmlEventData_t *event, unsigned timeout_ms) {
    nvmlReturn_t code = begin(__func__);
    if (code) set->spoiled = code; /* and stays so */
    if (set->spoiled) return set->spoiled;
    if (timeout_ms == 0) pause(); /* as bindings of NVIDIA's say: without end */
    if (set->count == 0) return TIMEOUT;
    *event = set->events[0];
    memmove(set->events, set->events + 1, (size_t)--set->count * sizeof *event);
    return SUCCESS;
}
nvmlReturn_t nvmlEventSetFree(set_t *set) {
    set->used = 0;
    return SUCCESS;
}

/* For the tests: how many event sets nobody has freed, and a library as just loaded. */
int stub_event_sets(void) {
    int found = 0;
    for (set_t *set = sets; set < sets + MOST_SETS; set++) found += set->used;
    return found;
}
void stub_reset(void) {
    memset(sets, 0, sizeof sets);
    initialized = 0;
}
