// errors.h: the exceptions of a group's calls. Wrong arguments and members that disagree are
// classes of rdmatensor/torch/errors.py, which are both RuntimeErrors and ValueErrors; every other
// failure is torch's DistBackendError.
//
// Numbers go into messages as std::to_string: a compiler that brings its own C++ library beside
// torch's makes streams that crash when a number is written to them.
#pragma once

#include <c10/util/Exception.h>
#include <torch/csrc/utils/pybind.h>

#include <exception>
#include <utility>

#include "rdmatensor_team.h"

namespace rdmatensor {

struct ArgumentError : c10::Error {
    using Error::Error;
};
struct ArgumentTypeError : c10::Error {
    using Error::Error;
};
struct DisagreementError : c10::DistBackendError {
    using DistBackendError::DistBackendError;
};

template <typename Kind> [[noreturn]] inline void refuse(const char *call, const std::string &why)
{
    throw Kind({__func__, __FILE__, static_cast<uint32_t>(__LINE__)}, std::string("rdmatensor ") + call + ": " + why);
}

// A requirement on a call's arguments; the text is built only when it is not met.
#define RDMATENSOR_NEEDS(good, call, ...)                                                                                        \
    do {                                                                                                                         \
        if (C10_UNLIKELY(!(good)))                                                                                               \
            refuse<ArgumentError>(call, c10::str(__VA_ARGS__));                                                                  \
    } while (0)
#define RDMATENSOR_NEEDS_TYPE(good, call, ...)                                                                                   \
    do {                                                                                                                         \
        if (C10_UNLIKELY(!(good)))                                                                                               \
            refuse<ArgumentTypeError>(call, c10::str(__VA_ARGS__));                                                              \
    } while (0)

// The exception of a signal's handler that ran within this thread's call: put aside until the call
// ends. The call may end with another error, and may even succeed, since its data can come together
// with the signal. A handler that makes calls of its own ends them before anything is put aside for
// the outer one.
inline std::exception_ptr &put_aside()
{
    static thread_local std::exception_ptr error;
    return error;
}

// Called while a call waits: whether a signal ends it.
inline int interrupted()
{
    if (put_aside() || !Py_IsInitialized())
        return 1;
    pybind11::gil_scoped_acquire gil;
    if (PyErr_CheckSignals() == 0)
        return 0;
    put_aside() = std::make_exception_ptr(pybind11::error_already_set());
    return 1;
}

// Throws what was put aside, if anything was.
inline void raise_aside()
{
    if (put_aside())
        std::rethrow_exception(std::exchange(put_aside(), nullptr));
}

[[noreturn]] inline void raise(const char *what, int status, const rt_detail &detail)
{
    if (status == RT_E_INVALID || status == RT_E_PROTOCOL)
        refuse<DisagreementError>(what, detail.text);
    if (status == RT_E_UNSUPPORTED)
        refuse<ArgumentError>(what, detail.text);
    C10_THROW_ERROR(DistBackendError, std::string("rdmatensor ") + what + ": " + detail.text);
}

// Translates the exceptions above to Python's classes wherever Python calls torch.
inline void translate_errors()
{
    static const auto set = [](const char *name, const c10::Error &error) {
        const std::string text = error.msg();
        const size_t colon = text.find(": ");
        pybind11::object kind = pybind11::module_::import("rdmatensor.torch.errors").attr(name);
        pybind11::object made = kind(text.substr(0, colon), "", colon == std::string::npos ? "" : text.substr(colon + 2));
        PyErr_SetObject(kind.ptr(), made.ptr());
    };
    pybind11::register_exception_translator([](std::exception_ptr pointer) {
        try {
            if (pointer)
                std::rethrow_exception(pointer);
        } catch (const ArgumentError &error) {
            set("ArgumentError", error);
        } catch (const ArgumentTypeError &error) {
            set("ArgumentTypeError", error);
        } catch (const DisagreementError &error) {
            set("DisagreementError", error);
        }
    });
}

} // namespace rdmatensor
