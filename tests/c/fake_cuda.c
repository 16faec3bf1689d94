/* fake_cuda.c: the fake CUDA driver's GPUs, contexts, and the door of every call. */
#include "fake_cuda_state.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

FAKE_CUDA_API cuda_result cuCtxGetCurrent(cuda_context *context_out);
FAKE_CUDA_API cuda_result cuDevicePrimaryCtxGetState(cuda_device device, unsigned *flags_out, int *active_out);

fake_driver fake_cuda = {.lock = PTHREAD_MUTEX_INITIALIZER,
                         .changed = PTHREAD_COND_INITIALIZER,
                         .ripening = PTHREAD_COND_INITIALIZER,
                         .posted_tail = &fake_cuda.posted};

enum { FAKE_DEPTH = 16 };

static __thread fake_context *context_stack[FAKE_DEPTH];
static __thread int context_depth;
static __thread int thread_capture_mode; /* 0: global */

/* ---- the door ---- */

void fake_violate(const char *what)
{
    fake_cuda.violations++;
    snprintf(fake_cuda.violation, sizeof fake_cuda.violation, "%s", what);
}

static bool fake_fails_now(const char *symbol)
{
    if (fake_cuda.fail_nth == 0 || strcmp(fake_cuda.fail_symbol, symbol) != 0 || --fake_cuda.fail_nth != 0)
        return false;
    fake_cuda.is_triggered = true;
    return true;
}

static cuda_result fake_admit(unsigned needs)
{
    if (fake_cuda.process == 0)
        return CUDA_E_NOT_INITIALIZED;
    if (fake_cuda.process != getpid()) {
        fake_violate("the driver is called in a child made by fork");
        return CUDA_E_NOT_INITIALIZED;
    }
    if ((needs & FAKE_CONTEXT) != 0 && context_depth == 0)
        return CUDA_E_INVALID_CONTEXT;
    if ((needs & FAKE_CONTEXT) != 0 && fake_cuda.is_broken)
        return CUDA_E_ILLEGAL_ADDRESS;
    if ((needs & FAKE_UNSAFE) != 0 && fake_cuda.is_capturing && thread_capture_mode != CUDA_CAPTURE_RELAXED) {
        fake_violate("a call breaks the capture of a graph");
        return CUDA_E_CAPTURE_UNSUPPORTED;
    }
    return CUDA_OK;
}

cuda_result fake_enter(const char *symbol, unsigned needs)
{
    pthread_mutex_lock(&fake_cuda.lock);
    cuda_result result = fake_admit(needs);
    return result == CUDA_OK && fake_fails_now(symbol) ? fake_cuda.fail_result : result;
}

cuda_result fake_enter_to_end(const char *symbol, unsigned needs)
{
    pthread_mutex_lock(&fake_cuda.lock);
    bool fails = fake_fails_now(symbol);
    cuda_result result = fake_admit(needs);
    return fails ? fake_cuda.fail_result : result;
}

cuda_result fake_leave(cuda_result result)
{
    pthread_mutex_unlock(&fake_cuda.lock);
    return result;
}

fake_context *fake_current(void)
{
    return context_stack[context_depth - 1];
}

/* ---- GPUs ---- */

static void device_begin(int device, const char *gpu)
{
    int *attributes = fake_cuda.attributes[device];
    bool a100 = strcmp(gpu, "a100") == 0, t4 = strcmp(gpu, "t4") == 0, geforce = strcmp(gpu, "geforce") == 0;
    bool old = strcmp(gpu, "old") == 0;
    attributes[CUDA_A_MAJOR] = t4 ? 7 : a100 || geforce ? 8 : 9;
    attributes[CUDA_A_MINOR] = t4 ? 5 : geforce ? 9 : 0;
    attributes[CUDA_A_ADDRESSES_APART] = attributes[CUDA_A_SHARES_BY_DESCRIPTOR] = 1;
    attributes[CUDA_A_DIRECT] = !geforce;
    attributes[CUDA_A_DIRECT_WHEN_MADE] = !geforce && !old;
    attributes[CUDA_A_DMA_BUF] = !geforce && !t4 && !old;
    attributes[CUDA_A_WRITES_NUMBERS] = !old;
    attributes[CUDA_A_FLUSH_OPTIONS] = geforce ? 0 : CUDA_FLUSH_OPTION_HOST;
    attributes[CUDA_A_WRITES_ORDERING] = t4 || old || geforce ? 0 : a100 ? CUDA_ORDERING_OWNER : 200;
    fake_cuda.bar1[device] = t4 || geforce ? 256u << 20 : 256ull << 30;
    fake_cuda.version = old ? 11060 : 13000;
    fake_cuda.contexts[device].device = device;
}

cuda_result cuInit(unsigned flags)
{
    (void)flags;
    pthread_mutex_lock(&fake_cuda.lock);
    const char *count = getenv("FAKE_CUDA_DEVICES"), *gpu = getenv("FAKE_CUDA_GPU"), *engine = getenv("FAKE_CUDA_ENGINE");
    if (fake_cuda.process != 0)
        return fake_leave(fake_cuda.process == getpid() ? CUDA_OK : CUDA_E_NOT_INITIALIZED);
    if (fake_fails_now("cuInit"))
        return fake_leave(fake_cuda.fail_result);
    fake_cuda.devices = count != NULL ? atoi(count) : 2;
    if (fake_cuda.devices <= 0 || fake_cuda.devices > FAKE_DEVICES_MAX)
        return fake_leave(CUDA_E_NO_DEVICE);
    for (int device = 0; device < fake_cuda.devices; device++)
        device_begin(device, gpu != NULL ? gpu : "h200");
    bool ripens = engine != NULL && strcmp(engine, "ripening") == 0, hurries = engine != NULL && strcmp(engine, "eager") == 0;
    fake_cuda.engine = ripens ? FAKE_RIPENING : hurries ? FAKE_EAGER : FAKE_LAZY;
    fake_cuda.process = getpid();
    return fake_leave(CUDA_OK);
}

cuda_result cuDriverGetVersion(int *version_out)
{
    FAKE_ENTER(0);
    *version_out = fake_cuda.version;
    return fake_leave(CUDA_OK);
}

cuda_result cuGetErrorName(cuda_result result, const char **name_out)
{
    static const struct {
        cuda_result result;
        const char *name;
    } names[] = {
        {CUDA_E_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
        {CUDA_E_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
        {CUDA_E_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED"},
        {CUDA_E_NO_DEVICE, "CUDA_ERROR_NO_DEVICE"},
        {CUDA_E_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
        {CUDA_E_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
        {CUDA_E_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
        {CUDA_E_NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"},
        {CUDA_E_SYSTEM_NOT_READY, "CUDA_ERROR_SYSTEM_NOT_READY"},
        {CUDA_E_DRIVER_MISMATCH, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH"},
        {CUDA_E_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
        {CUDA_E_UNKNOWN, "CUDA_ERROR_UNKNOWN"},
    };
    *name_out = NULL;
    for (size_t index = 0; index < sizeof names / sizeof names[0]; index++)
        if (names[index].result == result)
            *name_out = names[index].name;
    return *name_out != NULL ? CUDA_OK : CUDA_E_INVALID_VALUE;
}

cuda_result cuDeviceGetCount(int *count_out)
{
    FAKE_ENTER(0);
    *count_out = fake_cuda.devices;
    return fake_leave(CUDA_OK);
}

cuda_result cuDeviceGet(cuda_device *device_out, int ordinal)
{
    FAKE_ENTER(0);
    if (ordinal < 0 || ordinal >= fake_cuda.devices)
        return fake_leave(CUDA_E_INVALID_DEVICE);
    *device_out = ordinal;
    return fake_leave(CUDA_OK);
}

cuda_result cuDeviceGetName(char *name_out, int size, cuda_device device)
{
    FAKE_ENTER(0);
    snprintf(name_out, (size_t)size, "Fake GPU %d", device);
    return fake_leave(CUDA_OK);
}

cuda_result cuDeviceTotalMem_v2(size_t *size_out, cuda_device device)
{
    FAKE_ENTER(0);
    (void)device;
    *size_out = 16ull << 30;
    return fake_leave(CUDA_OK);
}

cuda_result cuDeviceGetAttribute(int *value_out, int attribute, cuda_device device)
{
    FAKE_ENTER(0);
    if (attribute < 0 || attribute >= FAKE_ATTRIBUTES || (attribute == CUDA_A_DMA_BUF && fake_cuda.version < 11070))
        return fake_leave(CUDA_E_INVALID_VALUE);
    *value_out = fake_cuda.attributes[device][attribute];
    return fake_leave(CUDA_OK);
}

cuda_result cuDeviceGetPCIBusId(char *text_out, int size, cuda_device device)
{
    FAKE_ENTER(0);
    snprintf(text_out, (size_t)size, "0000:%02x:00.0", 0x17u + (unsigned)device);
    return fake_leave(CUDA_OK);
}

/* ---- contexts ---- */

cuda_result cuDevicePrimaryCtxGetState(cuda_device device, unsigned *flags_out, int *active_out)
{
    FAKE_ENTER(0);
    *flags_out = fake_cuda.contexts[device].flags;
    *active_out = fake_cuda.contexts[device].references != 0;
    return fake_leave(CUDA_OK);
}

cuda_result cuDevicePrimaryCtxRetain(cuda_context *context_out, cuda_device device)
{
    FAKE_ENTER(0);
    fake_context *context = &fake_cuda.contexts[device];
    if (context->default_stream == NULL)
        context->default_stream = fake_stream_make(device, false);
    context->ever = true;
    context->references++;
    fake_cuda.live++;
    *context_out = context;
    return fake_leave(CUDA_OK);
}

cuda_result cuDevicePrimaryCtxRelease_v2(cuda_device device)
{
    cuda_result result = fake_enter_to_end(__func__, 0);
    if (fake_cuda.contexts[device].references == 0) {
        fake_violate("a context is released more often than retained");
        return fake_leave(CUDA_E_INVALID_CONTEXT);
    }
    fake_cuda.contexts[device].references--;
    fake_cuda.live--;
    return fake_leave(result);
}

cuda_result cuCtxPushCurrent_v2(cuda_context context)
{
    FAKE_ENTER(0);
    if (context == NULL || context_depth == FAKE_DEPTH)
        return fake_leave(CUDA_E_INVALID_CONTEXT);
    context_stack[context_depth++] = context;
    return fake_leave(CUDA_OK);
}

cuda_result cuCtxPopCurrent_v2(cuda_context *context_out)
{
    cuda_result result = fake_enter_to_end(__func__, 0);
    if (context_depth == 0)
        return fake_leave(CUDA_E_INVALID_CONTEXT);
    *context_out = context_stack[--context_depth];
    return fake_leave(result);
}

cuda_result cuCtxGetCurrent(cuda_context *context_out)
{
    FAKE_ENTER(0);
    *context_out = context_depth == 0 ? NULL : fake_current();
    return fake_leave(CUDA_OK);
}

cuda_result cuCtxGetFlags(unsigned *flags_out)
{
    FAKE_ENTER(FAKE_CONTEXT);
    *flags_out = fake_current()->flags;
    return fake_leave(CUDA_OK);
}

cuda_result cuCtxSetFlags(unsigned flags)
{
    FAKE_ENTER(FAKE_CONTEXT);
    fake_current()->flags = flags;
    return fake_leave(CUDA_OK);
}

cuda_result cuThreadExchangeStreamCaptureMode(int *mode)
{
    cuda_result result = fake_enter_to_end(__func__, 0);
    if (result != CUDA_OK && *mode == CUDA_CAPTURE_RELAXED)
        return fake_leave(result); /* the way in; the way out succeeds and may say otherwise */
    int before = thread_capture_mode;
    thread_capture_mode = *mode;
    *mode = before;
    return fake_leave(result);
}

/* ---- for the tests ---- */

void fake_cuda_fail(const char *symbol, uint32_t nth, int result)
{
    pthread_mutex_lock(&fake_cuda.lock);
    snprintf(fake_cuda.fail_symbol, sizeof fake_cuda.fail_symbol, "%s", symbol);
    fake_cuda.fail_nth = nth;
    fake_cuda.fail_result = result;
    fake_cuda.is_triggered = false;
    pthread_mutex_unlock(&fake_cuda.lock);
}

bool fake_cuda_triggered(void)
{
    pthread_mutex_lock(&fake_cuda.lock);
    bool was = fake_cuda.is_triggered;
    fake_cuda.fail_nth = 0;
    fake_cuda.is_triggered = false;
    pthread_mutex_unlock(&fake_cuda.lock);
    return was;
}

uint32_t fake_cuda_live(void)
{
    return fake_cuda.live;
}

uint32_t fake_cuda_violations(void)
{
    return fake_cuda.violations;
}

const char *fake_cuda_last_violation(void)
{
    return fake_cuda.violation;
}

bool fake_cuda_has_context(int device)
{
    return fake_cuda.contexts[device].ever;
}

void fake_cuda_set_attribute(int device, int attribute, int value)
{
    fake_cuda.attributes[device][attribute] = value;
}

uint32_t fake_cuda_flushes(void)
{
    return fake_cuda.flushes;
}

void fake_cuda_capture_process(bool on)
{
    fake_cuda.is_capturing = on;
}

void fake_cuda_break(bool on)
{
    fake_cuda.is_broken = on;
}
