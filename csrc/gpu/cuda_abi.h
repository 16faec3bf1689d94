/* cuda_abi.h: the part of CUDA's driver interface that is used, declared here, so that a build needs nothing of NVIDIA's.
 *
 * Names, numbers and layouts are compared with CUDA's own header, where a machine has one, by tests/python/gpu/test_cuda_abi.py.
 * A port to another vendor's driver is another table of the same calls. */
#ifndef RT_GPU_CUDA_ABI_H
#define RT_GPU_CUDA_ABI_H

#include <stddef.h>
#include <stdint.h>

typedef int cuda_result;
typedef int cuda_device;
typedef unsigned long long cuda_address; /* CUdeviceptr: of a device, or of pinned memory of the host */
typedef unsigned long long cuda_handle;  /* of memory that has no address yet */
typedef void *cuda_context;
typedef void *cuda_stream; /* NULL is the default stream */
typedef void *cuda_event;

enum { /* CUresult */
       CUDA_OK = 0,
       CUDA_E_INVALID_VALUE = 1,
       CUDA_E_OUT_OF_MEMORY = 2,
       CUDA_E_NOT_INITIALIZED = 3,
       CUDA_E_NO_DEVICE = 100,
       CUDA_E_INVALID_DEVICE = 101,
       CUDA_E_INVALID_CONTEXT = 201,
       CUDA_E_ECC = 214,
       CUDA_E_OPERATING_SYSTEM = 304,
       CUDA_E_NOT_READY = 600,
       CUDA_E_ILLEGAL_ADDRESS = 700,
       CUDA_E_CONTEXT_DESTROYED = 709,
       CUDA_E_ALREADY_PINNED = 712,
       CUDA_E_NOT_PINNED = 713,
       CUDA_E_LAUNCH_FAILED = 719,
       CUDA_E_NOT_SUPPORTED = 801,
       CUDA_E_SYSTEM_NOT_READY = 802,
       CUDA_E_DRIVER_MISMATCH = 803,
       CUDA_E_CAPTURE_UNSUPPORTED = 900,
       CUDA_E_UNKNOWN = 999,
};

enum { /* CUdevice_attribute */
       CUDA_A_MAJOR = 75,
       CUDA_A_MINOR = 76,
       CUDA_A_ADDRESSES_APART = 102, /* memory is made without an address, and mapped: cuMemCreate */
       CUDA_A_SHARES_BY_DESCRIPTOR = 103,
       CUDA_A_DIRECT_WHEN_MADE = 110, /* cuMemCreate can make memory that a NIC reaches */
       CUDA_A_DIRECT = 116,           /* GPUDirect RDMA */
       CUDA_A_FLUSH_OPTIONS = 117,
       CUDA_A_WRITES_ORDERING = 118,
       CUDA_A_WRITES_NUMBERS = 122, /* a stream can write a word of 64 bits */
       CUDA_A_DMA_BUF = 124,
};

enum { /* CUpointer_attribute */
       CUDA_P_MEMORY_TYPE = 2,
       CUDA_P_SYNC_MEMOPS = 6,
       CUDA_P_IS_MANAGED = 8,
       CUDA_P_ORDINAL = 9,
};

enum {
    CUDA_MEMORY_HOST = 1, /* CUmemorytype */
    CUDA_MEMORY_DEVICE = 2,
    CUDA_PINNED = 1,           /* CUmemAllocationType */
    CUDA_LOCATION_DEVICE = 1,  /* CUmemLocationType */
    CUDA_SHARE_DESCRIPTOR = 1, /* CUmemAllocationHandleType */
    CUDA_ACCESS_READ = 1,      /* CUmemAccess_flags */
    CUDA_ACCESS_READWRITE = 3,
    CUDA_RANGE_DMA_BUF = 1,     /* CUmemRangeHandleType */
    CUDA_FLUSH_OPTION_HOST = 1, /* CUflushGPUDirectRDMAWritesOptions */
    CUDA_ORDERING_OWNER = 100,  /* CUGPUDirectRDMAWritesOrdering */
    CUDA_FLUSH_TARGET = 0,      /* CUflushGPUDirectRDMAWritesTarget: the current context */
    CUDA_FLUSH_TO_OWNER = 100,  /* CUflushGPUDirectRDMAWritesScope */
    CUDA_STREAM_NON_BLOCKING = 1,
    CUDA_EVENT_NO_TIMING = 2,
    CUDA_REGISTER_PORTABLE = 1,
    CUDA_CAPTURE_RELAXED = 2,        /* CUstreamCaptureMode */
    CUDA_CONTEXT_SYNC_MEMOPS = 0x80, /* CUctx_flags */
};

typedef struct cuda_location {
    int type;
    int id;
} cuda_location;

typedef struct cuda_making { /* CUmemAllocationProp */
    int type;
    int shares_by;
    cuda_location location;
    void *of_windows;
    struct {
        unsigned char compression;
        unsigned char direct; /* a NIC is to reach it */
        unsigned short usage;
        unsigned char reserved[4];
    } flags;
} cuda_making;

typedef struct cuda_access { /* CUmemAccessDesc */
    cuda_location location;
    int flags;
} cuda_access;

/* X(our name, exported symbol, arguments). A symbol's suffix is the version of its ABI, which CUDA's header hides behind a macro. */
#define CUDA_CALLS(X)                                                                                                            \
    X(init, cuInit, (unsigned flags))                                                                                            \
    X(driver_version, cuDriverGetVersion, (int *version_out))                                                                    \
    X(error_name, cuGetErrorName, (cuda_result result, const char **name_out))                                                   \
    X(device_count, cuDeviceGetCount, (int *count_out))                                                                          \
    X(device_get, cuDeviceGet, (cuda_device * device_out, int ordinal))                                                          \
    X(device_name, cuDeviceGetName, (char *name_out, int size, cuda_device device))                                              \
    X(device_memory, cuDeviceTotalMem_v2, (size_t * size_out, cuda_device device))                                               \
    X(device_attribute, cuDeviceGetAttribute, (int *value_out, int attribute, cuda_device device))                               \
    X(device_pci, cuDeviceGetPCIBusId, (char *text_out, int size, cuda_device device))                                           \
    X(primary_retain, cuDevicePrimaryCtxRetain, (cuda_context * context_out, cuda_device device))                                \
    X(primary_release, cuDevicePrimaryCtxRelease_v2, (cuda_device device))                                                       \
    X(context_push, cuCtxPushCurrent_v2, (cuda_context context))                                                                 \
    X(context_pop, cuCtxPopCurrent_v2, (cuda_context * context_out))                                                             \
    X(memory_free_size, cuMemGetInfo_v2, (size_t * free_out, size_t * total_out))                                                \
    X(memory_range, cuMemGetAddressRange_v2, (cuda_address * base_out, size_t * size_out, cuda_address address))                 \
    X(pointer_attributes, cuPointerGetAttributes,                                                                                \
      (unsigned count, const int *attributes, void **values_out, cuda_address address))                                          \
    X(pointer_set, cuPointerSetAttribute, (const void *value, int attribute, cuda_address address))                              \
    X(memory_granule, cuMemGetAllocationGranularity, (size_t * size_out, const cuda_making *making, int option))                 \
    X(memory_make, cuMemCreate, (cuda_handle * handle_out, size_t size, const cuda_making *making, unsigned long long flags))    \
    X(memory_release, cuMemRelease, (cuda_handle handle))                                                                        \
    X(addresses_take, cuMemAddressReserve,                                                                                       \
      (cuda_address * address_out, size_t size, size_t alignment, cuda_address wanted, unsigned long long flags))                \
    X(addresses_give, cuMemAddressFree, (cuda_address address, size_t size))                                                     \
    X(memory_map, cuMemMap, (cuda_address address, size_t size, size_t offset, cuda_handle handle, unsigned long long flags))    \
    X(memory_unmap, cuMemUnmap, (cuda_address address, size_t size))                                                             \
    X(memory_access, cuMemSetAccess, (cuda_address address, size_t size, const cuda_access *access, size_t count))               \
    X(memory_export, cuMemExportToShareableHandle, (void *share_out, cuda_handle handle, int kind, unsigned long long flags))    \
    X(memory_import, cuMemImportFromShareableHandle, (cuda_handle * handle_out, void *share, int kind))                          \
    X(memory_retain, cuMemRetainAllocationHandle, (cuda_handle * handle_out, void *address))                                     \
    X(host_register, cuMemHostRegister_v2, (void *address, size_t size, unsigned flags))                                         \
    X(host_unregister, cuMemHostUnregister, (void *address))                                                                     \
    X(copy_async, cuMemcpyAsync, (cuda_address to, cuda_address from, size_t size, cuda_stream stream))                          \
    X(stream_create, cuStreamCreate, (cuda_stream * stream_out, unsigned flags))                                                 \
    X(stream_destroy, cuStreamDestroy_v2, (cuda_stream stream))                                                                  \
    X(stream_query, cuStreamQuery, (cuda_stream stream))                                                                         \
    X(stream_wait, cuStreamWaitEvent, (cuda_stream stream, cuda_event event, unsigned flags))                                    \
    X(stream_capturing, cuStreamIsCapturing, (cuda_stream stream, int *status_out))                                              \
    X(host_call, cuLaunchHostFunc, (cuda_stream stream, void (*call)(void *), void *argument))                                   \
    X(event_create, cuEventCreate, (cuda_event * event_out, unsigned flags))                                                     \
    X(event_destroy, cuEventDestroy_v2, (cuda_event event))                                                                      \
    X(event_record, cuEventRecord, (cuda_event event, cuda_stream stream))                                                       \
    X(capture_mode, cuThreadExchangeStreamCaptureMode, (int *mode))

/* A driver may lack these and be good enough: the traits say what is missing. */
#define CUDA_CALLS_OPTIONAL(X)                                                                                                   \
    X(context_get_flags, cuCtxGetFlags, (unsigned *flags_out))                                                                   \
    X(context_set_flags, cuCtxSetFlags, (unsigned flags))                                                                        \
    X(write_number, cuStreamWriteValue64_v2, (cuda_stream stream, cuda_address word, uint64_t value, unsigned flags))            \
    X(range_export, cuMemGetHandleForAddressRange,                                                                               \
      (void *share_out, cuda_address address, size_t size, int kind, unsigned long long flags))                                  \
    X(flush_writes, cuFlushGPUDirectRDMAWrites, (int target, int scope))

#endif
