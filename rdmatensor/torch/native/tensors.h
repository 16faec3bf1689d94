// tensors.h: tensors as the C core takes them: a dtype code, and contiguous memory that stands for
// them.
#pragma once

#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>

#include <array>

#include "errors.h"
#include "overlap.h"
#include "proto/dtype.h"

namespace rdmatensor {

// The element types of the core by their codes, with torch's type of the same name, and the type in
// which torch's kernels reduce it: from the table in proto/dtype.h.
struct Dtype {
    at::ScalarType type, widened;
};
#define DTYPE(constant, code, name, bytes, dlpack, torch, widened, element, loops)                                               \
    Dtype{at::ScalarType::torch, at::ScalarType::widened},
inline constexpr Dtype dtypes[RT_DTYPE_COUNT] = {Dtype{at::ScalarType::Undefined, at::ScalarType::Undefined}, RT_DTYPES(DTYPE)};
#undef DTYPE

// The code of a type; 0 for a type without one.
inline uint32_t dtype_code(at::ScalarType type)
{
    static constexpr auto codes = [] {
        std::array<uint8_t, static_cast<size_t>(at::ScalarType::NumOptions)> found{};
        for (uint8_t code = 1; code < RT_DTYPE_COUNT; code++)
            if (dtypes[code].type != at::ScalarType::Undefined)
                found[static_cast<size_t>(dtypes[code].type)] = code;
        return found;
    }();
    const auto index = static_cast<size_t>(type);
    return index < codes.size() ? codes[index] : 0;
}

inline bool sendable(at::ScalarType type)
{
    return dtype_code(type) != 0;
}

// Undefined types for a code that is not known.
inline const Dtype &dtype_of(uint32_t code)
{
    return dtypes[code < RT_DTYPE_COUNT ? code : RT_DTYPE_ANY];
}

inline std::string shape_of(const at::Tensor &tensor)
{
    std::string text;
    for (int64_t size : tensor.sizes())
        text += (text.empty() ? "[" : ", ") + std::to_string(size);
    return (text.empty() ? "[" : text) + "]";
}

// Whether the tensor's memory exists: a storage can be freed, or made smaller, under a tensor that
// keeps its shape.
inline bool has_memory(const at::Tensor &tensor)
{
    if (tensor.numel() == 0)
        return true;
    if (!tensor.has_storage())
        return false;
    uint64_t last = tensor.storage_offset();
    for (int64_t dim = 0; dim < tensor.dim(); dim++)
        last += static_cast<uint64_t>(tensor.size(dim) - 1) * static_cast<uint64_t>(tensor.stride(dim));
    return tensor.storage().data() != nullptr && (last + 1) * tensor.element_size() <= tensor.storage().nbytes();
}

// `which` names the tensor's place in a list.
inline void check_tensor(const char *call, const at::Tensor &tensor, const std::string &which = "")
{
    RDMATENSOR_NEEDS(tensor.defined(), call, "the tensor", which, " is undefined");
    RDMATENSOR_NEEDS(tensor.device().is_cpu(), call, "the tensor", which, " must be on the CPU, not on ", tensor.device().str());
    RDMATENSOR_NEEDS(tensor.layout() == at::kStrided, call, "the tensor", which, " must be dense, not ", tensor.layout());
    RDMATENSOR_NEEDS(!tensor.is_conj() && !tensor.is_neg(), call, "the tensor", which,
                     " is a conjugated or negated view: resolve that first");
    RDMATENSOR_NEEDS(has_memory(tensor), call, "the tensor", which, " of ", shape_of(tensor),
                     " has no memory: its storage was freed or made smaller (untyped_storage().resize_), as FSDP does with "
                     "parameters that are not in use");
    RDMATENSOR_NEEDS_TYPE(sendable(tensor.scalar_type()), call, "tensors of ", tensor.scalar_type(), " cannot be sent");
}

inline void check_single(const char *call, const std::vector<at::Tensor> &tensors)
{
    RDMATENSOR_NEEDS(tensors.size() == 1, call, "requires a single-element tensor list, not ", std::to_string(tensors.size()));
    check_tensor(call, tensors[0]);
}

inline void check_same_type(const char *call, const at::Tensor &tensor, const at::Tensor &like, size_t index)
{
    check_tensor(call, tensor, at_index(index));
    RDMATENSOR_NEEDS_TYPE(tensor.scalar_type() == like.scalar_type(), call, "invalid tensor type", at_index(index), ", expected ",
                          like.scalar_type(), ", got ", tensor.scalar_type());
}

inline void check_alike(const char *call, const at::Tensor &tensor, const at::Tensor &like, size_t index)
{
    check_same_type(call, tensor, like, index);
    RDMATENSOR_NEEDS(tensor.sizes().equals(like.sizes()), call, "invalid tensor size", at_index(index), ", expected ",
                     shape_of(like), ", got ", shape_of(tensor));
}

inline void *bytes_of(const at::Tensor &tensor)
{
    return tensor.numel() == 0 ? nullptr : tensor.data_ptr();
}

// The modes for writing to a tensor with torch's kernels, whatever mode the thread is in: values of
// an inference tensor can only be set in inference mode, and writes to other tensors must not be
// recorded.
struct Writing {
    c10::InferenceMode inference;
    at::NoGradGuard none;
    explicit Writing(const at::Tensor &tensor) : inference(tensor.is_inference())
    {
    }
};

// A tensor whose values will be those of contiguous memory: its own memory, or memory that `put`
// copies back.
struct Target {
    at::Tensor tensor, memory;
    // `read`: its values are needed as input. `copied`: uses other memory than its own in any case.
    explicit Target(const at::Tensor &tensor, bool read = true, bool copied = false) : tensor(tensor), memory(tensor)
    {
        if (tensor.is_contiguous() && !copied)
            return;
        Writing guard(tensor);
        memory = at::empty_like(tensor, at::MemoryFormat::Contiguous);
        if (read)
            memory.copy_(tensor);
    }
    void *bytes() const
    {
        return bytes_of(memory);
    }
    void put() const
    {
        if (memory.is_same(tensor))
            return;
        Writing guard(tensor);
        at::Tensor(tensor).copy_(memory);
    }
};

} // namespace rdmatensor
