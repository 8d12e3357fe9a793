/* A driver library, libcuda.so.1, whose device memory is the host's and whose GPUs are made up.

   Work that is given to a stream waits until something synchronises with it, as it may on a GPU, so
   a copy that nobody waited for has not happened. A call without a current context, an address
   outside of live memory and a handle that was destroyed are errors. Its variables:

   SRTRT_CUDA_INIT   what cuInit returns
   SRTRT_CUDA_GPUS   NAME:MAJOR.MINOR:MEBIBYTES, separated by commas; empty is none
   SRTRT_CUDA_VERSION  newest CUDA it claims to support, such as 13000
*/
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

typedef int Result;
enum { OK = 0, INVALID_VALUE = 1, NO_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100,
       INVALID_DEVICE = 101, INVALID_CONTEXT = 201, INVALID_HANDLE = 400, NOT_FOUND = 500, NOT_READY = 600,
       ILLEGAL_ADDRESS = 700, NOT_SUPPORTED = 801 };
#define EXPORT __attribute__((visibility("default")))
#define MOST 4096
#define TABLES 8

struct gpu { char name[128]; int major, minor; size_t bytes; };
struct event;
struct work {
    int kind; /* 0 copy, 1 fill, 2 record, 3 wait, 4 enlarge */
    char *target; const char *source; size_t bytes; unsigned char value; int checked;
    struct event *event; long ticket;
    long outer, height, width, inner;
    const char *tables[TABLES]; size_t table_bytes[TABLES]; int table_count;
    struct work *next;
};
struct stream { uint64_t mark; struct work *first, *last; long given, done; };
struct event { uint64_t mark; struct stream *stream; long ticket; double at; int timed; };
struct piece { char *start; size_t bytes; int is_host; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct gpu gpus[16];
static int gpu_count, started, contexts, streams, events, sticky;
static struct piece pieces[MOST];
static size_t used;
static long launches;
static __thread void *stack[64];
static __thread int depth;
static const uint64_t STREAM = 0x5354524541ull, EVENT = 0x4556454e54ull;
static char context_of[16];

static double now(void) {
    struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}
static Result ready(void) {
    if (!started) return NOT_INITIALIZED;
    if (!depth) return INVALID_CONTEXT;
    return sticky;
}
static int is_live(const char *from, size_t bytes) {
    for (int i = 0; i < MOST; i++)
        if (pieces[i].start && from >= pieces[i].start
            && from + bytes <= pieces[i].start + pieces[i].bytes) return 1;
    return 0;
}
static int open_pieces(void) {
    int n = 0;
    for (int i = 0; i < MOST; i++) n += pieces[i].start != NULL;
    return n;
}
static void enlarge(struct work *w) {
    unsigned char add = 0;
    for (int t = 0; t < w->table_count; t++)
        for (size_t i = 0; i < w->table_bytes[t]; i++) add += (unsigned char)w->tables[t][i];
    long row = 4 * w->width * w->inner;
    for (long o = 0; o < w->outer; o++)
        for (long y = 0; y < 4 * w->height; y++)
            for (long x = 0; x < 4 * w->width; x++)
                for (long c = 0; c < w->inner; c++) {
                    long from = ((o * w->height + y / 4) * w->width + x / 4) * w->inner + c;
                    w->target[(o * 4 * w->height + y) * row + x * w->inner + c] =
                        (char)(255 - (unsigned char)w->source[from] + add);
                }
}
static void run_until(struct stream *s, long ticket) {
    while (s->first && s->done < ticket) {
        struct work *w = s->first;
        if (((w->checked & 1) && !is_live(w->target, w->bytes))
            || ((w->checked & 2) && !is_live(w->source, w->bytes))) sticky = ILLEGAL_ADDRESS;
        else if (w->kind == 0) memmove(w->target, w->source, w->bytes);
        if (w->kind == 1) memset(w->target, w->value, w->bytes);
        if (w->kind == 2) w->event->at = now();
        if (w->kind == 3 && w->event->stream && w->event->stream != s)
            run_until(w->event->stream, w->ticket);
        if (w->kind == 4) enlarge(w);
        s->first = w->next;
        if (!s->first) s->last = NULL;
        s->done++;
        free(w);
    }
}
static struct stream legacy = { 0x5354524541ull, NULL, NULL, 0, 0 };
static struct stream *stream_of(void *handle) {
    struct stream *s = handle ? handle : &legacy;
    return s->mark == STREAM ? s : NULL;
}
static Result give(void *handle, struct work work) {
    struct stream *s = stream_of(handle);
    if (!s) return INVALID_HANDLE;
    struct work *w = malloc(sizeof *w);
    *w = work; w->next = NULL;
    if (s->last) s->last->next = w; else s->first = w;
    s->last = w; s->given++;
    return OK;
}
#define GUARDED(body) do { pthread_mutex_lock(&lock); Result r = ready(); \
    if (r == OK) { body } pthread_mutex_unlock(&lock); return r; } while (0)

EXPORT Result cuInit(unsigned flags) {
    const char *code = getenv("SRTRT_CUDA_INIT"), *list = getenv("SRTRT_CUDA_GPUS");
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (code && atoi(code)) return atoi(code);
    if (!list) list = "NVIDIA Stand-in:8.9:8192";
    pthread_mutex_lock(&lock);
    if (!started) {
        char *text = strdup(list), *save = NULL;
        for (char *e = strtok_r(text, ",", &save); e && gpu_count < 16; e = strtok_r(NULL, ",", &save)) {
            struct gpu *g = &gpus[gpu_count]; unsigned long mib;
            if (sscanf(e, "%127[^:]:%d.%d:%lu", g->name, &g->major, &g->minor, &mib) == 4) {
                g->bytes = (size_t)mib << 20; gpu_count++;
            }
        }
        free(text);
        if (visible && (!*visible || *visible == '-')) gpu_count = 0;
        started = gpu_count > 0;
    }
    pthread_mutex_unlock(&lock);
    return started ? OK : NO_DEVICE;
}
EXPORT Result cuDriverGetVersion(int *version) {
    const char *text = getenv("SRTRT_CUDA_VERSION");
    *version = text ? atoi(text) : 13000; return OK;
}
EXPORT Result cuDeviceGetCount(int *count) { *count = gpu_count; return started ? OK : NOT_INITIALIZED; }
EXPORT Result cuDeviceGet(int *device, int index) {
    if (!started) return NOT_INITIALIZED;
    if (index < 0 || index >= gpu_count) return INVALID_DEVICE;
    *device = index; return OK;
}
EXPORT Result cuDeviceGetName(char *name, int length, int device) {
    snprintf(name, length, "%s", gpus[device].name); return OK;
}
EXPORT Result cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = gpus[device].bytes; return OK; }
EXPORT Result cuDeviceComputeCapability(int *major, int *minor, int device) {
    *major = gpus[device].major; *minor = gpus[device].minor; return OK;
}
EXPORT Result cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? gpus[device].major : attribute == 76 ? gpus[device].minor : 1;
    return OK;
}
EXPORT Result cuDeviceGetPCIBusId(char *text, int length, int device) {
    snprintf(text, length, "0000:%02X:00.0", 1 + device); return OK;
}
EXPORT Result cuDevicePrimaryCtxRetain(void **context, int device) {
    if (device < 0 || device >= gpu_count) return INVALID_DEVICE;
    *context = &context_of[device]; contexts++; return OK;
}
EXPORT Result cuDevicePrimaryCtxRelease_v2(int device) { contexts--; return OK; }
EXPORT Result cuCtxPushCurrent_v2(void *context) {
    if (!context || depth == 64) return INVALID_CONTEXT;
    stack[depth++] = context; return OK;
}
EXPORT Result cuCtxPopCurrent_v2(void **context) {
    if (!depth) return INVALID_CONTEXT;
    void *top = stack[--depth];
    if (context) *context = top;
    return OK;
}
EXPORT Result cuCtxGetDevice(int *device) {
    if (!depth) return INVALID_CONTEXT;
    *device = (int)((char *)stack[depth - 1] - context_of); return OK;
}
EXPORT Result cuCtxGetApiVersion(void *context, unsigned *version) { *version = 3020; return OK; }
EXPORT Result cuCtxSynchronize(void) { GUARDED(run_until(&legacy, legacy.given);); }
EXPORT Result cuMemGetInfo_v2(size_t *free_, size_t *total) {
    if (!depth) return INVALID_CONTEXT;
    *total = gpus[(char *)stack[depth - 1] - context_of].bytes; *free_ = *total - used; return OK;
}
static Result take(void **address, size_t bytes, int is_host) {
    if (!bytes) return INVALID_VALUE;
    if (!is_host && used + bytes > gpus[(char *)stack[depth - 1] - context_of].bytes) return NO_MEMORY;
    for (int i = 0; i < MOST; i++)
        if (!pieces[i].start) {
            pieces[i].start = malloc(bytes); pieces[i].bytes = bytes; pieces[i].is_host = is_host;
            if (!is_host) used += bytes;
            memset(pieces[i].start, 0xA5, bytes); /* nothing is zero by itself */
            *address = pieces[i].start;
            return OK;
        }
    return NO_MEMORY;
}
static Result give_back(void *address, int is_host) {
    for (int i = 0; i < MOST; i++)
        if (pieces[i].start == address && pieces[i].is_host == is_host) {
            if (!is_host) used -= pieces[i].bytes;
            free(pieces[i].start); pieces[i].start = NULL;
            return OK;
        }
    return INVALID_VALUE;
}
EXPORT Result cuMemAlloc_v2(uint64_t *address, size_t bytes) { GUARDED(r = take((void **)address, bytes, 0);); }
EXPORT Result cuMemFree_v2(uint64_t address) { GUARDED(r = give_back((void *)address, 0);); }
EXPORT Result cuMemHostAlloc(void **address, size_t bytes, unsigned flags) { GUARDED(r = take(address, bytes, 1);); }
EXPORT Result cuMemFreeHost(void *address) { GUARDED(r = give_back(address, 1);); }
static Result copy(void *stream, void *target, const void *source, size_t bytes, int checked, int wait) {
    if (((checked & 1) && !is_live(target, bytes)) || ((checked & 2) && !is_live(source, bytes)))
        return sticky = ILLEGAL_ADDRESS;
    Result r = give(stream, (struct work){ .kind = 0, .target = target, .source = source,
                                           .bytes = bytes, .checked = checked });
    if (r == OK && wait) run_until(stream_of(stream), stream_of(stream)->given);
    return r;
}
EXPORT Result cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t n) { GUARDED(r = copy(NULL, (void *)to, from, n, 1, 1);); }
EXPORT Result cuMemcpyDtoH_v2(void *to, uint64_t from, size_t n) { GUARDED(r = copy(NULL, to, (void *)from, n, 2, 1);); }
EXPORT Result cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t n) { GUARDED(r = copy(NULL, (void *)to, (void *)from, n, 3, 1);); }
EXPORT Result cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t n, void *s) { GUARDED(r = copy(s, (void *)to, from, n, 1, 0);); }
EXPORT Result cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t n, void *s) { GUARDED(r = copy(s, to, (void *)from, n, 2, 0);); }
EXPORT Result cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, void *s) { GUARDED(r = copy(s, (void *)to, (void *)from, n, 3, 0);); }
EXPORT Result cuMemsetD8Async(uint64_t to, unsigned char value, size_t n, void *s) {
    GUARDED(r = is_live((void *)to, n)
        ? give(s, (struct work){ .kind = 1, .target = (char *)to, .value = value, .bytes = n })
        : (sticky = ILLEGAL_ADDRESS););
}
EXPORT Result cuStreamCreate(void **handle, unsigned flags) {
    if (flags > 1) return INVALID_VALUE;
    GUARDED(struct stream *s = calloc(1, sizeof *s); s->mark = STREAM; *handle = s; streams++;);
}
EXPORT Result cuStreamDestroy_v2(void *handle) {
    GUARDED(struct stream *s = handle ? stream_of(handle) : NULL;
        if (!s) r = INVALID_HANDLE; else { run_until(s, s->given); s->mark = 0; streams--; });
}
EXPORT Result cuStreamSynchronize(void *handle) {
    GUARDED(struct stream *s = stream_of(handle);
        if (!s) r = INVALID_HANDLE; else run_until(s, s->given););
}
EXPORT Result cuStreamQuery(void *handle) {
    GUARDED(struct stream *s = stream_of(handle); r = !s ? INVALID_HANDLE : s->first ? NOT_READY : OK;);
}
static struct event *event_of(void *handle) {
    struct event *e = handle;
    return e && e->mark == EVENT ? e : NULL;
}
EXPORT Result cuEventCreate(void **handle, unsigned flags) {
    if (flags > 7) return INVALID_VALUE;
    GUARDED(struct event *e = calloc(1, sizeof *e); e->mark = EVENT; e->timed = !(flags & 2);
        *handle = e; events++;);
}
EXPORT Result cuEventDestroy_v2(void *handle) {
    GUARDED(struct event *e = event_of(handle);
        if (!e) r = INVALID_HANDLE;
        else { if (e->stream) run_until(e->stream, e->ticket); e->mark = 0; events--; });
}
EXPORT Result cuEventRecord(void *handle, void *stream) {
    GUARDED(struct event *e = event_of(handle); struct stream *s = stream_of(stream);
        if (!e || !s) r = INVALID_HANDLE;
        else { r = give(stream, (struct work){ .kind = 2, .event = e }); e->stream = s; e->ticket = s->given; });
}
EXPORT Result cuEventSynchronize(void *handle) {
    GUARDED(struct event *e = event_of(handle);
        if (!e) r = INVALID_HANDLE; else if (e->stream) run_until(e->stream, e->ticket););
}
EXPORT Result cuEventQuery(void *handle) {
    GUARDED(struct event *e = event_of(handle);
        r = !e ? INVALID_HANDLE : e->stream && e->stream->done < e->ticket ? NOT_READY : OK;);
}
EXPORT Result cuEventElapsedTime_v2(float *ms, void *first, void *second) {
    GUARDED(struct event *a = event_of(first); struct event *b = event_of(second);
        if (!a || !b || !a->timed || !b->timed) r = INVALID_HANDLE; else *ms = (float)(b->at - a->at););
}
EXPORT Result cuStreamWaitEvent(void *stream, void *handle, unsigned flags) {
    GUARDED(struct event *e = event_of(handle);
        r = e ? give(stream, (struct work){ .kind = 3, .event = e, .ticket = e->ticket }) : INVALID_HANDLE;);
}
EXPORT Result cuGetErrorString(Result code, const char **text) {
    static __thread char words[64];
    snprintf(words, sizeof words, "stand-in error %d", code); *text = words; return OK;
}
EXPORT Result cuGetErrorName(Result code, const char **text) { return cuGetErrorString(code, text); }
EXPORT Result cuProfilerStop(void) { return OK; }
/* The address of a function by its plain name, the newest version there is of it. */
EXPORT Result cuGetProcAddress_v2(const char *name, void **found, int version, uint64_t flags, int *status) {
    static const char *endings[] = { "_v3", "_v2", "" };
    void *self = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    char whole[128];
    *found = NULL;
    for (int i = 0; self && i < 3 && !*found; i++) {
        snprintf(whole, sizeof whole, "%s%s", name, endings[i]);
        *found = dlsym(self, whole);
    }
    if (self) dlclose(self);
    if (status) *status = *found ? 0 : 1;
    return *found ? OK : NOT_FOUND;
}

/* What a test asks of the stand-in itself. */
EXPORT int standin_open(void) { return contexts + streams + events + open_pieces(); }
EXPORT long standin_launches(void) { return launches; }
/* A network: [outer, height, width, inner] to four times the height and width, 255 minus each
   sample, plus all bytes of the tables. */
EXPORT Result standin_enlarge(void *stream, char *target, const char *source, const long *shape,
                              const char **tables, const size_t *table_bytes, int count) {
    struct work w = { .kind = 4, .target = target, .source = source, .outer = shape[0],
                      .height = shape[1], .width = shape[2], .inner = shape[3], .table_count = count };
    size_t bytes = (size_t)(shape[0] * shape[1] * shape[2] * shape[3]);
    for (int t = 0; t < count; t++) { w.tables[t] = tables[t]; w.table_bytes[t] = table_bytes[t]; }
    GUARDED(launches++; r = is_live(source, bytes) && is_live(target, 16 * bytes) ? give(stream, w)
        : (sticky = ILLEGAL_ADDRESS););
}

/* What PyCUDA 2026.1 links with CUDA 13.0 beside these, and no test calls. */
#define REFUSED(name) EXPORT Result name(void) { return NOT_SUPPORTED; }
REFUSED(cuArray3DCreate_v2) REFUSED(cuArray3DGetDescriptor_v2) REFUSED(cuArrayCreate_v2)
REFUSED(cuArrayDestroy) REFUSED(cuArrayGetDescriptor_v2) REFUSED(cuCtxAttach)
REFUSED(cuCtxCreate_v4) REFUSED(cuCtxDetach) REFUSED(cuCtxDisablePeerAccess)
REFUSED(cuCtxEnablePeerAccess) REFUSED(cuCtxGetCacheConfig) REFUSED(cuCtxGetLimit)
REFUSED(cuCtxGetSharedMemConfig) REFUSED(cuCtxSetCacheConfig) REFUSED(cuCtxSetLimit)
REFUSED(cuCtxSetSharedMemConfig) REFUSED(cuDeviceCanAccessPeer) REFUSED(cuDeviceGetByPCIBusId)
REFUSED(cuFuncGetAttribute) REFUSED(cuFuncSetAttribute) REFUSED(cuFuncSetBlockShape)
REFUSED(cuFuncSetCacheConfig) REFUSED(cuFuncSetSharedSize) REFUSED(cuIpcCloseMemHandle)
REFUSED(cuIpcGetEventHandle) REFUSED(cuIpcGetMemHandle) REFUSED(cuIpcOpenEventHandle)
REFUSED(cuIpcOpenMemHandle_v2) REFUSED(cuLaunch) REFUSED(cuLaunchGrid) REFUSED(cuLaunchGridAsync)
REFUSED(cuLaunchKernel) REFUSED(cuLinkAddData_v2) REFUSED(cuLinkAddFile_v2) REFUSED(cuLinkComplete)
REFUSED(cuLinkCreate_v2) REFUSED(cuLinkDestroy) REFUSED(cuMemAllocManaged)
REFUSED(cuMemAllocPitch_v2) REFUSED(cuMemGetAddressRange_v2) REFUSED(cuMemHostGetDevicePointer_v2)
REFUSED(cuMemHostGetFlags) REFUSED(cuMemHostRegister_v2) REFUSED(cuMemHostUnregister)
REFUSED(cuMemcpy2DAsync_v2) REFUSED(cuMemcpy2DUnaligned_v2) REFUSED(cuMemcpy2D_v2)
REFUSED(cuMemcpy3DAsync_v2) REFUSED(cuMemcpy3DPeer) REFUSED(cuMemcpy3DPeerAsync)
REFUSED(cuMemcpy3D_v2) REFUSED(cuMemcpyAtoA_v2) REFUSED(cuMemcpyAtoD_v2) REFUSED(cuMemcpyAtoH_v2)
REFUSED(cuMemcpyDtoA_v2) REFUSED(cuMemcpyHtoA_v2) REFUSED(cuMemcpyPeer) REFUSED(cuMemcpyPeerAsync)
REFUSED(cuMemsetD16Async) REFUSED(cuMemsetD16_v2) REFUSED(cuMemsetD2D16Async)
REFUSED(cuMemsetD2D16_v2) REFUSED(cuMemsetD2D32Async) REFUSED(cuMemsetD2D32_v2)
REFUSED(cuMemsetD2D8Async) REFUSED(cuMemsetD2D8_v2) REFUSED(cuMemsetD32Async)
REFUSED(cuMemsetD32_v2) REFUSED(cuMemsetD8_v2) REFUSED(cuModuleGetFunction)
REFUSED(cuModuleGetGlobal_v2) REFUSED(cuModuleGetSurfRef) REFUSED(cuModuleGetTexRef)
REFUSED(cuModuleLoad) REFUSED(cuModuleLoadData) REFUSED(cuModuleLoadDataEx) REFUSED(cuModuleUnload)
REFUSED(cuParamSetSize) REFUSED(cuParamSetTexRef) REFUSED(cuParamSetf) REFUSED(cuParamSeti)
REFUSED(cuParamSetv) REFUSED(cuProfilerInitialize) REFUSED(cuProfilerStart)
REFUSED(cuStreamAttachMemAsync) REFUSED(cuSurfRefGetArray) REFUSED(cuSurfRefSetArray)
REFUSED(cuTexRefCreate) REFUSED(cuTexRefDestroy) REFUSED(cuTexRefGetAddressMode)
REFUSED(cuTexRefGetAddress_v2) REFUSED(cuTexRefGetArray) REFUSED(cuTexRefGetFilterMode)
REFUSED(cuTexRefGetFlags) REFUSED(cuTexRefGetFormat) REFUSED(cuTexRefSetAddress2D_v3)
REFUSED(cuTexRefSetAddressMode) REFUSED(cuTexRefSetAddress_v2) REFUSED(cuTexRefSetArray)
REFUSED(cuTexRefSetFilterMode) REFUSED(cuTexRefSetFlags) REFUSED(cuTexRefSetFormat)
