// tensors.h: tensors as the C core wants them: a dtype code, and contiguous memory that stands for them.
#pragma once

#include <ATen/ATen.h>

namespace rdmatensor {

// The codes of csrc/proto/EDGES.md, section 2.
inline uint32_t dtype_code(at::ScalarType type)
{
    switch (type) {
    case at::kBool: return 1;
    case at::kByte: return 2;
    case at::kUInt16: return 3;
    case at::kUInt32: return 4;
    case at::kUInt64: return 5;
    case at::kChar: return 6;
    case at::kShort: return 7;
    case at::kInt: return 8;
    case at::kLong: return 9;
    case at::kHalf: return 10;
    case at::kFloat: return 11;
    case at::kDouble: return 12;
    case at::kBFloat16: return 13;
    case at::kComplexHalf: return 14;
    case at::kComplexFloat: return 15;
    case at::kComplexDouble: return 16;
    case at::kFloat8_e4m3fn: return 17;
    case at::kFloat8_e5m2: return 18;
    case at::kFloat8_e4m3fnuz: return 19;
    case at::kFloat8_e5m2fnuz: return 20;
    case at::kFloat8_e8m0fnu: return 21;
    default: TORCH_CHECK_TYPE(false, "rdmatensor: tensors of ", type, " cannot be sent");
    }
}

inline at::ScalarType dtype_of(uint32_t code)
{
    static const at::ScalarType types[] = {at::ScalarType::Undefined,
                                           at::kBool,
                                           at::kByte,
                                           at::kUInt16,
                                           at::kUInt32,
                                           at::kUInt64,
                                           at::kChar,
                                           at::kShort,
                                           at::kInt,
                                           at::kLong,
                                           at::kHalf,
                                           at::kFloat,
                                           at::kDouble,
                                           at::kBFloat16,
                                           at::kComplexHalf,
                                           at::kComplexFloat,
                                           at::kComplexDouble,
                                           at::kFloat8_e4m3fn,
                                           at::kFloat8_e5m2,
                                           at::kFloat8_e4m3fnuz,
                                           at::kFloat8_e5m2fnuz,
                                           at::kFloat8_e8m0fnu};
    return code < sizeof types / sizeof *types ? types[code] : at::ScalarType::Undefined;
}

inline void check_tensor(const char *what, const at::Tensor &tensor)
{
    TORCH_CHECK_VALUE(tensor.defined(), "rdmatensor ", what, ": a tensor is undefined");
    TORCH_CHECK_VALUE(tensor.device().is_cpu(), "rdmatensor ", what, ": tensors must be on the CPU, not on ", tensor.device());
    TORCH_CHECK_VALUE(tensor.layout() == at::kStrided, "rdmatensor ", what, ": tensors must be dense, not ", tensor.layout());
    TORCH_CHECK(!tensor.is_conj() && !tensor.is_neg(), "rdmatensor ", what, ": resolve conjugated or negated views first");
}

inline void check_one(const char *what, const std::vector<at::Tensor> &tensors)
{
    TORCH_CHECK_VALUE(tensors.size() == 1, "rdmatensor ", what, ": requires a single-element tensor list, not ",
                      std::to_string(tensors.size()));
    check_tensor(what, tensors[0]);
}

inline std::string shape_of(const at::Tensor &tensor)
{
    std::string text;
    for (int64_t size : tensor.sizes())
        text += (text.empty() ? "[" : ", ") + std::to_string(size);
    return (text.empty() ? "[" : text) + "]";
}

inline void check_alike(const char *what, const at::Tensor &tensor, const at::Tensor &like)
{
    check_tensor(what, tensor);
    TORCH_CHECK_TYPE(tensor.scalar_type() == like.scalar_type(), "rdmatensor ", what, ": invalid tensor type at index, expected ",
                     like.scalar_type(), ", got ", tensor.scalar_type());
    TORCH_CHECK_VALUE(tensor.numel() == like.numel(), "rdmatensor ", what, ": invalid tensor size at index, expected ",
                      shape_of(like), ", got ", shape_of(tensor));
}

inline void *bytes_of(const at::Tensor &tensor)
{
    return tensor.numel() == 0 ? nullptr : tensor.data_ptr();
}

// A tensor whose values will be those of contiguous memory: its own, or memory copied back by `put`.
struct Target {
    at::Tensor tensor, memory;
    explicit Target(const at::Tensor &tensor, bool read = true)
        : tensor(tensor),
          memory(tensor.is_contiguous() ? tensor
                                        : (read ? tensor.contiguous() : at::empty_like(tensor, at::MemoryFormat::Contiguous)))
    {
    }
    void *bytes() const
    {
        return bytes_of(memory);
    }
    void put() const
    {
        if (!memory.is_same(tensor)) {
            at::NoGradGuard guard;
            at::Tensor(tensor).copy_(memory);
        }
    }
};

} // namespace rdmatensor
