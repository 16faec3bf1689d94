/* driver.c: loads CUDA's driver, names its errors with their remedies, and enters and leaves contexts.
 *
 * The library is loaded once and never unloaded. RDMATENSOR_LIBCUDA, read here and nowhere else, names another file to load in
 * its place: a library in an unusual directory, or the fake of the tests. */
#include "gpu/driver.h"

#include "base/lock_order.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CUDA_LIBRARY "libcuda.so.1"
#define CUDA_LIBRARY_VARIABLE "RDMATENSOR_LIBCUDA"

RT_STATIC_MUTEX(driver_lock, RT_RANK_LAST); /* guards `driver` until it is loaded */
static cuda_driver driver;
static atomic_bool driver_loaded;
/* `used`: this process loads the driver, or has loaded it. A child made then may use nothing of it, and its copy of the lock may
 * be held, so it looks at `forked` first. */
static atomic_bool driver_used, driver_forked, driver_watched;

static void driver_child(void)
{
    if (atomic_load_explicit(&driver_used, memory_order_relaxed))
        atomic_store_explicit(&driver_forked, true, memory_order_relaxed); /* the child has one thread */
}

int gpu_check_fork(rt_detail *detail)
{
    if (!atomic_load_explicit(&driver_forked, memory_order_relaxed))
        return RT_OK;
    return rt_fail(
        detail, RT_E_FORKED, 0,
        "cannot use a GPU in a child made by fork: its parent has used CUDA, which does not cross a fork; start the process "
        "with the method \"spawn\", or fork before a GPU is used");
}

/* ---- errors ---- */

static int cuda_status(cuda_result result)
{
    switch (result) {
    case CUDA_OK: return RT_OK;
    case CUDA_E_OUT_OF_MEMORY: return RT_E_NO_MEMORY;
    case CUDA_E_INVALID_VALUE:
    case CUDA_E_INVALID_DEVICE:
    case CUDA_E_CAPTURE_UNSUPPORTED: return RT_E_INVALID;
    case CUDA_E_NOT_SUPPORTED: return RT_E_UNSUPPORTED;
    case CUDA_E_NO_DEVICE:
    case CUDA_E_OPERATING_SYSTEM:
    case CUDA_E_SYSTEM_NOT_READY:
    case CUDA_E_DRIVER_MISMATCH: return RT_E_UNAVAILABLE;
    case CUDA_E_ECC:
    case CUDA_E_ILLEGAL_ADDRESS:
    case CUDA_E_CONTEXT_DESTROYED:
    case CUDA_E_LAUNCH_FAILED: return RT_E_DEVICE_LOST;
    default: return RT_E_SYSTEM;
    }
}

/* Where the reason has one remedy, whatever was attempted. */
static const char *cuda_remedy(cuda_result result)
{
    switch (result) {
    case CUDA_E_NO_DEVICE: return ": no GPU is visible; look at `nvidia-smi -L` and at CUDA_VISIBLE_DEVICES";
    case CUDA_E_OPERATING_SYSTEM:
    case CUDA_E_UNKNOWN:
        return ": the kernel module may not be loaded (`modprobe nvidia nvidia_uvm`), or /dev/nvidia* is missing in this container (run "
               "it with --gpus all); `dmesg | grep NVRM` says more";
    case CUDA_E_SYSTEM_NOT_READY: return ": NVSwitch is not set up; start nvidia-fabricmanager";
    case CUDA_E_DRIVER_MISMATCH:
        return ": the library and the kernel module are of different versions; reboot, or load the module again";
    case CUDA_E_ECC: return ": the GPU's memory failed; look at `nvidia-smi -q -d ECC`";
    case CUDA_E_ILLEGAL_ADDRESS:
    case CUDA_E_LAUNCH_FAILED:
        return ": a kernel or copy of this process touched memory that it may not, and CUDA serves the process no more; find it with "
               "compute-sanitizer, and start the process again";
    case CUDA_E_CONTEXT_DESTROYED:
        return ": this process has reset the GPU, with the regions on it; reset no GPU that a region lies on";
    case CUDA_E_CAPTURE_UNSUPPORTED: return ": a graph is being captured; do this before or after the capture";
    default: return "";
    }
}

static const char *cuda_name(cuda_result result)
{
    const char *name = NULL;
    return driver.error_name != NULL && driver.error_name(result, &name) == CUDA_OK && name != NULL ? name
                                                                                                    : "an error without a name";
}

int gpu_fail(rt_detail *detail, cuda_result result, uint32_t ordinal, const char *format, ...)
{
    char what[160];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    return rt_fail(detail, cuda_status(result), 0, "cannot %s on cuda:%u: %s (%d)%s", what, ordinal, cuda_name(result), result,
                   cuda_remedy(result));
}

/* ---- the library ---- */

static int driver_open_failed(const char *path, bool named, rt_detail *detail)
{
    const char *error = dlerror();
    if (named)
        return rt_fail(detail, RT_E_UNAVAILABLE, 0, "cannot load %s, which " CUDA_LIBRARY_VARIABLE " names: %s", path,
                       error != NULL ? error : "unknown");
    return rt_fail(detail, RT_E_UNAVAILABLE, 0,
                   "cannot load " CUDA_LIBRARY
                   " (%s): it comes with NVIDIA's driver; install that, or run the container with --gpus all",
                   error != NULL ? error : "unknown");
}

static int driver_resolve(void *handle, rt_detail *detail)
{
    const char *missing = NULL;
#define X(name, symbol, arguments)                                                                                               \
    driver.name = (__typeof__(driver.name))dlsym(handle, #symbol);                                                               \
    if (driver.name == NULL)                                                                                                     \
        missing = #symbol;
    CUDA_CALLS(X)
#undef X
    if (missing != NULL)
        return rt_fail(detail, RT_E_UNAVAILABLE, 0,
                       "%s has no %s: it is not CUDA's driver, or too old: install one of CUDA 11.3 or newer", driver.path,
                       missing);
#define X(name, symbol, arguments) driver.name = (__typeof__(driver.name))dlsym(handle, #symbol);
    CUDA_CALLS_OPTIONAL(X)
#undef X
    return RT_OK;
}

static int driver_load(rt_detail *detail)
{
    const char *named = getenv(CUDA_LIBRARY_VARIABLE);
    bool is_named = named != NULL && named[0] != '\0';
    snprintf(driver.path, sizeof driver.path, "%s", is_named ? named : CUDA_LIBRARY);
    void *handle = dlopen(driver.path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL)
        return driver_open_failed(driver.path, is_named, detail);
    int status = driver_resolve(handle, detail);
    if (status != RT_OK) {
        dlclose(handle);
        return status;
    }
    cuda_result result = driver.init(0); /* whatever it says, the library has begun and stays */
    if (result == CUDA_OK)
        return RT_OK;
    return rt_fail(detail, RT_E_UNAVAILABLE, 0, "cannot use a GPU: cuInit of %s says %s (%d)%s", driver.path, cuda_name(result),
                   result, cuda_remedy(result));
}

int gpu_driver(const cuda_driver **driver_out, rt_detail *detail)
{
    int status = gpu_check_fork(detail);
    if (status != RT_OK)
        return status;
    *driver_out = &driver;
    if (atomic_load_explicit(&driver_loaded, memory_order_acquire)) /* pairs with the store below */
        return RT_OK;
    if (!atomic_exchange_explicit(&driver_watched, true, memory_order_relaxed))
        pthread_atfork(NULL, NULL, driver_child);
    atomic_store_explicit(&driver_used, true,
                          memory_order_relaxed); /* before the lock: a fork with the lock held is one of a user */
    pthread_mutex_lock(&driver_lock);
    if (!atomic_load_explicit(&driver_loaded, memory_order_relaxed)) {
        status = driver_load(detail);
        atomic_store_explicit(&driver_loaded, status == RT_OK, memory_order_release); /* pairs with the load above */
        atomic_store_explicit(&driver_used, status == RT_OK, memory_order_relaxed);
    }
    pthread_mutex_unlock(&driver_lock);
    return status;
}

/* ---- contexts ---- */

static cuda_result entry_begin(gpu_entry *entry)
{
    *entry = (gpu_entry){.cuda = &driver, .mode = CUDA_CAPTURE_RELAXED};
    cuda_result result = driver.capture_mode(&entry->mode);
    entry->is_relaxed = result == CUDA_OK;
    return result;
}

int gpu_enter(const rt_gpu *gpu, gpu_entry *entry_out, const char *what, rt_detail *detail)
{
    int status = gpu_check_fork(detail);
    if (status != RT_OK)
        return status;
    cuda_result result = entry_begin(entry_out);
    if (result == CUDA_OK)
        result = driver.context_push(gpu->context);
    entry_out->has_context = result == CUDA_OK;
    if (result == CUDA_OK)
        return RT_OK;
    gpu_leave(entry_out);
    return gpu_fail(detail, result, gpu->ordinal, "%s", what);
}

bool gpu_enter_to_end(gpu_entry *entry_out)
{
    if (gpu_check_fork(NULL) != RT_OK)
        return false;
    entry_begin(entry_out);
    return true;
}

void gpu_leave(gpu_entry *entry)
{
    cuda_context ours;
    if (entry->has_context)
        entry->cuda->context_pop(&ours);
    if (entry->is_relaxed)
        entry->cuda->capture_mode(&entry->mode);
}
