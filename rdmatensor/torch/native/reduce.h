// reduce.h: reductions of memory by torch's own kernels, for element types and reductions without a
// loop in the C core.
#pragma once

#include <ATen/ATen.h>

#include "group.h"
#include "tensors.h"

namespace rdmatensor {

inline at::Tensor view_of(const void *bytes, at::ScalarType type, uint64_t count)
{
    return at::from_blob(const_cast<void *>(bytes), {static_cast<int64_t>(count)}, at::TensorOptions().dtype(type));
}

inline void apply(uint32_t reduction, at::Tensor &to, const at::Tensor &left, const at::Tensor &right)
{
    switch (reduction) {
    case RT_TEAM_SUM: at::add_out(to, left, right); break;
    case RT_TEAM_PRODUCT: at::mul_out(to, left, right); break;
    case RT_TEAM_MIN: at::minimum_out(to, left, right); break;
    case RT_TEAM_MAX: at::maximum_out(to, left, right); break;
    case RT_TEAM_AND: at::bitwise_and_out(to, left, right); break;
    case RT_TEAM_OR: at::bitwise_or_out(to, left, right); break;
    case RT_TEAM_XOR: at::bitwise_xor_out(to, left, right); break;
    default: TORCH_CHECK(false, "no such reduction");
    }
}

// Flips the top bit, which maps the order of unsigned numbers to that of signed ones, for which
// there are kernels.
inline void reduce_uint64(uint32_t reduction, void *target, const void *left, const void *right, uint64_t count)
{
    at::Tensor to = view_of(target, at::kLong, count), a = view_of(left, at::kLong, count), b = view_of(right, at::kLong, count);
    if (reduction != RT_TEAM_MIN && reduction != RT_TEAM_MAX) {
        apply(reduction, to, a, b);
        return;
    }
    const at::Scalar top(std::numeric_limits<int64_t>::min());
    at::Tensor result = at::empty_like(to);
    apply(reduction, result, a.bitwise_xor(top), b.bitwise_xor(top));
    to.copy_(result.bitwise_xor(top));
}

inline int reduce_with_torch(uint32_t dtype, uint32_t reduction, void *target, const void *left, const void *right,
                             uint64_t count)
{
    try {
        c10::InferenceMode mode;
        // Types without arithmetic of their own are reduced in a wider one and rounded.
        const auto [type, wide] = dtype_of(dtype);
        if (type == at::kUInt64) {
            reduce_uint64(reduction, target, left, right, count);
            return 0;
        }
        at::Tensor to = view_of(target, type, count), a = view_of(left, type, count), b = view_of(right, type, count);
        if (wide == type) {
            apply(reduction, to, a, b);
        } else {
            at::Tensor result = at::empty({static_cast<int64_t>(count)}, at::TensorOptions().dtype(wide));
            apply(reduction, result, a.to(wide), b.to(wide));
            to.copy_(result);
        }
        return 0;
    } catch (const std::exception &) {
        return -1;
    }
}

// Before torch 2.13 the class was named after NCCL.
#if TORCH_VERSION_MAJOR > 2 || TORCH_VERSION_MINOR >= 13
using Factor = c10d::PreMulSumSupplement;
#else
using Factor = c10d::NCCLPreMulSumSupplement;
#endif

struct Reduction {
    uint32_t code;
    bool averages = false;
    c10::intrusive_ptr<Factor> scaled;
};

// The reduction, checked against the element type before anything is sent.
inline Reduction reduction_of(const char *what, const c10d::ReduceOp &op, at::ScalarType type)
{
    const bool whole = c10::isIntegralType(type, true), complex = c10::isComplexType(type);
    const auto only = [&](bool good, const char *name) {
        RDMATENSOR_NEEDS(good, what, "cannot use ReduceOp.", name, " with tensors of ", type);
    };
    switch (op.op_) {
    case c10d::ReduceOp::SUM: return {RT_TEAM_SUM};
    case c10d::ReduceOp::AVG: only(!whole, "AVG"); return {RT_TEAM_SUM, true};
    case c10d::ReduceOp::PRODUCT: return {RT_TEAM_PRODUCT};
    case c10d::ReduceOp::MIN: only(!complex, "MIN"); return {RT_TEAM_MIN};
    case c10d::ReduceOp::MAX: only(!complex, "MAX"); return {RT_TEAM_MAX};
    case c10d::ReduceOp::BAND: only(whole, "BAND"); return {RT_TEAM_AND};
    case c10d::ReduceOp::BOR: only(whole, "BOR"); return {RT_TEAM_OR};
    case c10d::ReduceOp::BXOR: only(whole, "BXOR"); return {RT_TEAM_XOR};
    case c10d::ReduceOp::PREMUL_SUM:
        only(!whole, "PREMUL_SUM");
        return {RT_TEAM_SUM, false, c10::dynamic_intrusive_pointer_cast<Factor>(op.supplement_)};
    default: refuse<ArgumentError>(what, "no such reduction");
    }
}

inline at::Tensor scale(const Reduction &reduction, const at::Tensor &input)
{
    if (!reduction.scaled)
        return input;
    at::NoGradGuard guard;
    return reduction.scaled->tensor_factor.defined() ? input.mul(reduction.scaled->tensor_factor.to(input.scalar_type()))
                                                     : input.mul(reduction.scaled->double_factor);
}

} // namespace rdmatensor
