/* fake_cuda.h: libfakecuda.so, a CUDA driver for the tests, without a GPU, which puts work off for as long as it may.
 *
 * Memory of a GPU is mapped at its address without access, so a CPU that touches it faults; the fake has a mapping of its own.
 * Work on a stream happens only when somebody waits for it (cuStreamSynchronize, fake_cuda_work), so a wait that is missing shows in
 * every run. A NIC's writes are posted, and become visible as late as the GPU's ordering allows. Any call can be made to fail.
 *
 * The environment, read by cuInit: FAKE_CUDA_DEVICES (2 unless set, at most 8); FAKE_CUDA_GPU, one of h200 (the default), a100, t4,
 * geforce, old (a driver of CUDA 11.6): their attributes; FAKE_CUDA_ENGINE, one of lazy (the default), ripening (a thread also does
 * the work that a number or a call of the host follows, after a while) and eager (work is done when it is queued). */
#ifndef RT_TESTS_FAKE_CUDA_H
#define RT_TESTS_FAKE_CUDA_H

#include <stdbool.h>
#include <stdint.h>

#define FAKE_CUDA_API __attribute__((visibility("default")))

/* Fails the nth call of this symbol from now with `result`; calls that end something do so and then say that they failed. */
FAKE_CUDA_API void fake_cuda_fail(const char *symbol, uint32_t nth, int result);
/* Whether that call was made. Ends it, made or not. */
FAKE_CUDA_API bool fake_cuda_triggered(void);
/* Contexts retained, memory, mappings, address ranges, pins, streams and events that are alive. */
FAKE_CUDA_API uint32_t fake_cuda_live(void);
/* Rules that were broken, since the start. */
FAKE_CUDA_API uint32_t fake_cuda_violations(void);
FAKE_CUDA_API const char *fake_cuda_last_violation(void);
/* Whether a GPU ever had a primary context. */
FAKE_CUDA_API bool fake_cuda_has_context(int device);
FAKE_CUDA_API void fake_cuda_set_attribute(int device, int attribute, int value);
FAKE_CUDA_API uint32_t fake_cuda_flushes(void);
/* Another thread of the process captures a graph in the global mode: unsafe calls of threads in that mode fail. */
FAKE_CUDA_API void fake_cuda_capture_process(bool on);
/* As after a kernel that touched what it may not: all calls with a context fail, and queued work never ends. */
FAKE_CUDA_API void fake_cuda_break(bool on);
/* The GPUs do all that is queued and can be done. */
FAKE_CUDA_API void fake_cuda_work(void);
/* Bytes of a GPU's memory as they are now; queued work stays queued. False: no memory of a GPU. */
FAKE_CUDA_API bool fake_cuda_peek(uint64_t address, void *bytes_out, uint64_t size);
/* Fakes an address range of several pieces, as frameworks make when memory grows: `count` pieces of 2 MiB that are mapped one behind
 * the other; with descriptors or without. 0: no memory. Never ends. */
FAKE_CUDA_API uint64_t fake_cuda_pieces(int device, uint32_t count, bool with_descriptors);
/* Whether an address is said to be managed memory. */
FAKE_CUDA_API void fake_cuda_manage(uint64_t address);

/* ---- for a fake NIC ---- */

/* The bytes behind a dma-buf, or behind an address as nvidia_peermem finds them; NULL with an errno. Held until the drop. */
FAKE_CUDA_API void *fake_cuda_nic_hold(int descriptor, uint64_t offset, uint64_t size, int *error_out);
FAKE_CUDA_API void *fake_cuda_nic_hold_address(uint64_t address, uint64_t size, int *error_out);
FAKE_CUDA_API void fake_cuda_nic_drop(void *bytes, uint64_t size);
/* A NIC writes into bytes that it holds. False: they are no memory of a GPU. */
FAKE_CUDA_API bool fake_cuda_nic_write(void *bytes, const void *from, uint64_t size);

#endif
