/* library.c: loads libibverbs at run time, so that one build of rdmatensor works on machines with and without it.
 *
 * Nothing is bundled: the library must match the host's driver packages (RDMA-RULES 33). It is loaded once and never
 * unloaded, because its drivers do not support that. RDMATENSOR_LIBIBVERBS, read here and nowhere else, names another file
 * to load in its place: a library in an unusual directory, or the fake of the tests. */
#include "provider/verbs/verbs.h"

#if RT_HAVE_VERBS

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERBS_LIBRARY "libibverbs.so.1"
#define VERBS_LIBRARY_VARIABLE "RDMATENSOR_LIBIBVERBS"
/* Tells libibverbs to free the objects of a device that the kernel has let go of; without it they, and their descriptors,
 * would stay. */
#define VERBS_DISASSOCIATE_VARIABLE "RDMAV_ALLOW_DISASSOC_DESTROY"

RT_STATIC_MUTEX(load_lock, RT_RANK_PROVIDER); /* guards `loaded` and `library` until it is loaded */
static verbs_library library;
static bool loaded;

static int library_open_failed(const char *path, bool named, rt_detail *detail)
{
    const char *error = dlerror();
    if (named)
        return rt_fail(detail, RT_E_UNAVAILABLE, 0, "cannot load %s, which " VERBS_LIBRARY_VARIABLE " names: %s", path,
                       error != NULL ? error : "unknown");
    return rt_fail(detail, RT_E_UNAVAILABLE, 0,
                   "cannot load " VERBS_LIBRARY
                   " (%s): install it with `apt install libibverbs1 ibverbs-providers` (Fedora: `dnf "
                   "install libibverbs`)",
                   error != NULL ? error : "unknown");
}

static int library_resolve(void *handle, verbs_library *table, rt_detail *detail)
{
    const char *missing = NULL;
#define X(name)                                                                                                                  \
    table->name = (__typeof__(table->name))dlsym(handle, #name);                                                                 \
    if (table->name == NULL)                                                                                                     \
        missing = #name;
    VERBS_CALLS(X)
#undef X
    if (missing != NULL)
        return rt_fail(detail, RT_E_UNAVAILABLE, 0,
                       "%s has no %s: it is not libibverbs, or too old: install rdma-core 28 or newer", table->path, missing);
#define X(name) table->name = (__typeof__(table->name))dlsym(handle, #name);
    VERBS_CALLS_OPTIONAL(X)
#undef X
    return RT_OK;
}

/* Readies the library for fork before any part of it is used (RDMA-RULES 27). A failure is
 * reported, and is not fatal. Before Linux 5.12 the library takes registered pages from children, and with them whatever else
 * lies on a page that adopted memory ends on. */
static const char *fork_init(const verbs_library *table)
{
    int error = table->ibv_fork_init();
    if (error == EINVAL)
        return "not fork-safe (memory was registered before)";
    if (error != 0)
        return "not fork-safe (refused by the kernel)";
    if (table->ibv_is_fork_initialized != NULL && table->ibv_is_fork_initialized() == IBV_FORK_UNNEEDED)
        return "fork-safe (by the kernel)";
    return "fork-safe (children lack registered pages)";
}

static int library_load(rt_detail *detail)
{
    const char *named = getenv(VERBS_LIBRARY_VARIABLE);
    bool is_named = named != NULL && named[0] != '\0';
    const char *path = is_named ? named : VERBS_LIBRARY;
    setenv(VERBS_DISASSOCIATE_VARIABLE, "1", 0); /* read when the library begins */
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL)
        return library_open_failed(path, is_named, detail);
    snprintf(library.path, sizeof library.path, "%s", path);
    int status = library_resolve(handle, &library, detail);
    if (status != RT_OK) {
        dlclose(handle);
        return status;
    }
    library.fork_state = fork_init(&library);
    loaded = true;
    return RT_OK;
}

const verbs_library *verbs_library_load(rt_detail *detail)
{
    pthread_mutex_lock(&load_lock);
    int status = loaded ? RT_OK : library_load(detail);
    pthread_mutex_unlock(&load_lock);
    return status == RT_OK ? &library : NULL;
}

#endif
