// notes.h: the record of an operation for profilers of communication: record_param_comms, as in
// NCCL's backend.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/ParamCommsUtils.hpp>

#include <functional>

namespace rdmatensor {

// The data of the record.
struct Seen {
    const std::vector<at::Tensor> &inputs;
    const std::vector<std::vector<at::Tensor>> &outputs;
    uint64_t sequence;
    int root; // or the peer; this rank where there is neither
    bool single;
    bool asynchronous;
};

template <typename Opts> int root_of(const Opts &options, int rank)
{
    if constexpr (requires { options.rootRank; })
        return static_cast<int>(options.rootRank);
    else
        return rank;
}

inline int64_t elements_of(const std::vector<at::Tensor> &tensors)
{
    int64_t count = 0;
    for (const auto &tensor : tensors)
        count += tensor.numel();
    return count;
}

inline void go_noted(const c10d::Backend &backend, const char *title, const Seen &seen, const std::vector<uint64_t> &ranks,
                     const std::function<void()> &go)
{
    const std::vector<at::Tensor> &inputs = seen.inputs;
    std::vector<at::Tensor> outputs;
    for (const auto &list : seen.outputs)
        outputs.insert(outputs.end(), list.begin(), list.end());
    const at::ScalarType type = !inputs.empty()    ? inputs[0].scalar_type()
                                : !outputs.empty() ? outputs[0].scalar_type()
                                                   : at::kByte;
    const std::vector<int64_t> none;
    const int start = ranks.empty() ? 0 : static_cast<int>(ranks[0]);
    const int stride = ranks.size() < 2 ? 1 : static_cast<int>(ranks[1] - ranks[0]);
    const auto number = std::make_tuple(static_cast<int64_t>(seen.sequence), seen.single);
    const auto name = std::make_tuple(backend.getGroupUid(), backend.getGroupDesc());
#ifdef RECORD_PARAM_COMMS_DATA_WITH_ASYNC_OP
    RECORD_PARAM_COMMS_DATA_WITH_ASYNC_OP(number, name, inputs, outputs, seen.root, title, elements_of(inputs),
                                          elements_of(outputs), type, none, none, start, stride, backend.getSize(),
                                          seen.asynchronous);
#else // torch 2.9 does not record whether a call is asynchronous
    RECORD_PARAM_COMMS_DATA(number, name, inputs, outputs, seen.root, title, elements_of(inputs), elements_of(outputs), type,
                            none, none, start, stride, backend.getSize());
#endif
    go();
}

} // namespace rdmatensor
