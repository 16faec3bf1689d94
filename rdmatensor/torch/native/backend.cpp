// backend.cpp: the operations of torch.distributed over a team, and the Python module with it.
//
// Each operation checks its tensors, turns them into contiguous memory, and gives one call to the C core; `submit` runs it at
// once when the caller waits for it and nothing is before it, else in the group's worker (calls.h).
#include "calls.h"

namespace rdmatensor {

class BackendRdmatensor : public TeamBackend {
  public:
    using TeamBackend::TeamBackend;

    // ---- reductions ----

    WorkPointer allreduce(Tensors &tensors, const c10d::AllreduceOptions &options) override
    {
        if (tensors.size() == 1 && tensors[0].defined() && tensors[0].is_sparse())
            return allreduce_sparse(tensors, options);
        check_one("all_reduce", tensors);
        return reduce_all(OpType::ALLREDUCE, "all_reduce", tensors, options);
    }

    WorkPointer allreduce_coalesced(Tensors &tensors, const c10d::AllreduceCoalescedOptions &options) override
    {
        return reduce_all(OpType::ALLREDUCE_COALESCED, "all_reduce_coalesced", tensors, options);
    }

    WorkPointer allreduce_sparse(Tensors &tensors, const c10d::AllreduceOptions &options) override
    {
        TORCH_CHECK_VALUE(tensors.size() == 1 && tensors[0].is_sparse() && tensors[0].device().is_cpu(),
                          "rdmatensor all_reduce: one sparse tensor on the CPU is needed");
        TORCH_CHECK_VALUE(options.reduceOp == c10d::ReduceOp::SUM, "rdmatensor all_reduce: sparse tensors can only be summed");
        at::Tensor tensor = tensors[0];
        return submit(OpType::_ALLREDUCE_SPARSE, "sparse_all_reduce", tensors, {{tensor}}, options, [this, tensor](auto &call) {
            c10::InferenceMode off(false);
            at::NoGradGuard guard;
            at::Tensor(tensor).copy_(sum_sparse(call, tensor.coalesce()));
        });
    }

    WorkPointer reduce(Tensors &tensors, const c10d::ReduceOptions &options) override
    {
        check_one("reduce", tensors);
        check_root("reduce", options.rootRank);
        const Reduction reduction = reduction_of("reduce", options.reduceOp, tensors[0].scalar_type());
        const int root = static_cast<int>(options.rootRank);
        at::Tensor tensor = tensors[0];
        return submit(OpType::REDUCE, "reduce", tensors, {tensors}, options, [this, tensor, reduction, root](auto &call) {
            Target target(tensor);
            at::Tensor input = scale(reduction, target.memory);
            call.about(tensor, reduction.code, root);
            call("reduce", group_->api()->reduce(group_->team(), &call.call, bytes_of(input), target.bytes(), input.numel()));
            if (root == rank_)
                finish_reduction(reduction, target);
        });
    }

    WorkPointer _reduce_scatter_base(at::Tensor &output, at::Tensor &input, const c10d::ReduceScatterOptions &options) override
    {
        check_tensor("reduce_scatter", output);
        check_tensor("reduce_scatter", input);
        TORCH_CHECK_TYPE(output.scalar_type() == input.scalar_type(),
                         "rdmatensor reduce_scatter: input and output tensors must have the same dtype");
        TORCH_CHECK_VALUE(output.numel() * size_ == input.numel(),
                          "rdmatensor reduce_scatter: input tensor must be the same size as output size times world size");
        Tensors inputs{input};
        return submit(OpType::_REDUCE_SCATTER_BASE, "_reduce_scatter_base", inputs, {{output}}, options,
                      [this, output, input,
                       op = reduction_of("reduce_scatter", options.reduceOp, input.scalar_type())](auto &call) {
                          const at::Tensor source = scale(op, input.contiguous());
                          scatter_reduced(call, op, output, parts_of(bytes_of(source), source.nbytes() / size_, size_));
                      });
    }

    WorkPointer reduce_scatter(Tensors &outputs, Lists &inputs, const c10d::ReduceScatterOptions &options) override
    {
        check_one("reduce_scatter", outputs);
        TORCH_CHECK_VALUE(inputs.size() == 1 && inputs[0].size() == static_cast<size_t>(size_),
                          "rdmatensor reduce_scatter: one input tensor per rank is needed");
        at::Tensor output = outputs[0];
        for (const auto &input : inputs[0])
            check_alike("reduce_scatter", input, output);
        return submit(OpType::REDUCE_SCATTER, "reduce_scatter", inputs[0], {outputs}, options,
                      [this, output, list = inputs[0],
                       op = reduction_of("reduce_scatter", options.reduceOp, output.scalar_type())](auto &call) {
                          Tensors blocks;
                          std::vector<void *> inputs;
                          for (const auto &input : list) {
                              blocks.push_back(scale(op, input.contiguous()));
                              inputs.push_back(bytes_of(blocks.back()));
                          }
                          scatter_reduced(call, op, output, inputs);
                      });
    }

    WorkPointer reduce_scatter_tensor_coalesced(Tensors &outputs, Tensors &inputs,
                                                const c10d::ReduceScatterOptions &options) override
    {
        TORCH_CHECK_VALUE(outputs.size() == inputs.size(), "rdmatensor reduce_scatter: as many inputs as outputs are needed");
        WorkPointer work;
        for (size_t index = 0; index < outputs.size(); index++)
            work = _reduce_scatter_base(outputs[index], inputs[index], options);
        return last_of(work, outputs);
    }

    // ---- gathering and spreading ----

    WorkPointer broadcast(Tensors &tensors, const c10d::BroadcastOptions &options) override
    {
        check_one("broadcast", tensors);
        check_root("broadcast", options.rootRank);
        at::Tensor tensor = tensors[0];
        const int root = static_cast<int>(options.rootRank);
        return submit(OpType::BROADCAST, "broadcast", tensors, {tensors}, options, [this, tensor, root](auto &call) {
            Target target(tensor);
            call.about(tensor, 0, root);
            call("broadcast", group_->api()->broadcast(group_->team(), &call.call, target.bytes(), target.memory.nbytes()));
            if (root != rank_)
                target.put();
        });
    }

    WorkPointer allgather(Lists &outputs, Tensors &inputs, const c10d::AllgatherOptions &options) override
    {
        check_one("all_gather", inputs);
        TORCH_CHECK_VALUE(outputs.size() == 1 && outputs[0].size() == static_cast<size_t>(size_),
                          "rdmatensor all_gather: one output tensor per rank is needed");
        for (const auto &output : outputs[0])
            check_alike("all_gather", output, inputs[0]);
        return submit(OpType::ALLGATHER, "all_gather", inputs, outputs, options,
                      [this, list = outputs[0], input = inputs[0]](auto &call) { gather_all(call, input, list); });
    }

    WorkPointer _allgather_base(at::Tensor &output, at::Tensor &input, const c10d::AllgatherOptions &options) override
    {
        check_tensor("all_gather", output);
        check_tensor("all_gather", input);
        TORCH_CHECK_TYPE(output.scalar_type() == input.scalar_type(),
                         "rdmatensor all_gather: output tensor must have the same type as input tensor");
        TORCH_CHECK_VALUE(input.numel() * size_ == output.numel(),
                          "rdmatensor all_gather: output tensor size must be equal to world_size times input tensor size");
        Tensors inputs{input};
        return submit(OpType::_ALLGATHER_BASE, "_all_gather_base", inputs, {{output}}, options,
                      [this, output, input](auto &call) {
                          Target target(output, false);
                          const at::Tensor source = input.contiguous();
                          gather_into(call, source, parts_of(target.bytes(), source.nbytes(), size_));
                          target.put();
                      });
    }

    WorkPointer allgather_coalesced(Lists &outputs, Tensors &inputs, const c10d::AllgatherOptions &options) override
    {
        TORCH_CHECK_VALUE(outputs.size() == static_cast<size_t>(size_),
                          "rdmatensor all_gather_coalesced: one list of outputs per rank is needed");
        Lists lists(inputs.size());
        for (size_t index = 0; index < inputs.size(); index++)
            for (auto &list : outputs) {
                TORCH_CHECK_VALUE(list.size() == inputs.size(),
                                  "rdmatensor all_gather_coalesced: one output per input and rank is needed");
                check_alike("all_gather_coalesced", list[index], inputs[index]);
                lists[index].push_back(list[index]);
            }
        return submit(OpType::ALLGATHER_COALESCED, "all_gather", inputs, outputs, options, [this, lists, inputs](auto &call) {
            for (size_t index = 0; index < inputs.size(); index++)
                gather_all(call, inputs[index], lists[index]);
        });
    }

    WorkPointer allgather_into_tensor_coalesced(Tensors &outputs, Tensors &inputs, const c10d::AllgatherOptions &options) override
    {
        TORCH_CHECK_VALUE(outputs.size() == inputs.size(), "rdmatensor all_gather: as many inputs as outputs are needed");
        WorkPointer work;
        for (size_t index = 0; index < outputs.size(); index++)
            work = _allgather_base(outputs[index], inputs[index], options);
        return last_of(work, outputs);
    }

    WorkPointer gather(Lists &outputs, Tensors &inputs, const c10d::GatherOptions &options) override
    {
        check_one("gather", inputs);
        check_root("gather", options.rootRank);
        const int root = static_cast<int>(options.rootRank);
        if (root == rank_) {
            TORCH_CHECK_VALUE(outputs.size() == 1 && outputs[0].size() == static_cast<size_t>(size_),
                              "rdmatensor gather: the root needs one output tensor per rank");
            for (const auto &output : outputs[0])
                check_alike("gather", output, inputs[0]);
        } else {
            TORCH_CHECK_VALUE(outputs.empty(), "rdmatensor gather: requires empty output on non-root");
        }
        return submit(OpType::GATHER, "gather", inputs, outputs, options, [this, outputs, input = inputs[0], root](auto &call) {
            Tensors sends(size_), receives(size_);
            sends[root] = input;
            if (root == rank_)
                receives = outputs[0];
            exchange(call, "gather", sends, receives, input, root);
        });
    }

    WorkPointer scatter(Tensors &outputs, Lists &inputs, const c10d::ScatterOptions &options) override
    {
        check_one("scatter", outputs);
        check_root("scatter", options.rootRank);
        const int root = static_cast<int>(options.rootRank);
        if (root == rank_) {
            TORCH_CHECK_VALUE(inputs.size() == 1 && inputs[0].size() == static_cast<size_t>(size_),
                              "rdmatensor scatter: the root needs one input tensor per rank");
            for (const auto &input : inputs[0])
                check_alike("scatter", input, outputs[0]);
        } else {
            TORCH_CHECK_VALUE(inputs.empty(), "rdmatensor scatter: requires empty input on non-root");
        }
        Tensors given = inputs.empty() ? Tensors() : inputs[0];
        return submit(OpType::SCATTER, "scatter", given, {outputs}, options,
                      [this, given, output = outputs[0], root](auto &call) {
                          Tensors sends(size_), receives(size_);
                          receives[root] = output;
                          if (root == rank_)
                              sends = given;
                          exchange(call, "scatter", sends, receives, output, root);
                      });
    }

    WorkPointer alltoall(Tensors &outputs, Tensors &inputs, const c10d::AllToAllOptions &options) override
    {
        TORCH_CHECK_VALUE(outputs.size() == static_cast<size_t>(size_) && inputs.size() == static_cast<size_t>(size_),
                          "rdmatensor all_to_all: one input and one output tensor per rank are needed");
        for (const auto &tensors : {outputs, inputs})
            for (const auto &tensor : tensors)
                check_tensor("all_to_all", tensor);
        return submit(OpType::ALLTOALL, "all_to_all", inputs, {outputs}, options,
                      [this, outputs, inputs](auto &call) { exchange(call, "all_to_all", inputs, outputs, inputs[0], -1); });
    }

    WorkPointer alltoall_base(at::Tensor &output, at::Tensor &input, std::vector<int64_t> &output_splits,
                              std::vector<int64_t> &input_splits, const c10d::AllToAllOptions &options) override
    {
        check_tensor("all_to_all", output);
        check_tensor("all_to_all", input);
        c10d::checkSplitSizes(input_splits, input, size_);
        c10d::checkSplitSizes(output_splits, output, size_);
        TORCH_CHECK_TYPE(output.scalar_type() == input.scalar_type(),
                         "rdmatensor all_to_all: tensors are not equal in data type");
        Tensors inputs{input};
        return submit(OpType::ALLTOALL_BASE, "all_to_all", inputs, {{output}}, options,
                      [this, output, input, output_splits, input_splits](auto &call) {
                          Target target(output, false);
                          exchange(call, "all_to_all", split_rows(input.contiguous(), input_splits),
                                   split_rows(target.memory, output_splits), input, -1);
                          target.put();
                      });
    }

    WorkPointer barrier(const c10d::BarrierOptions &options) override
    {
        return submit(OpType::BARRIER, "barrier", {}, {}, options, [this](auto &call) {
            call.call.dtype = dtype_code(at::kByte);
            call("barrier", group_->api()->barrier(group_->team(), &call.call));
        });
    }

    void monitoredBarrier(const c10d::BarrierOptions &options, bool wait_all_ranks) override;

    // ---- sends and receives ----

    WorkPointer send(Tensors &tensors, int peer, int tag) override
    {
        check_one("send", tensors);
        check_peer("send", peer);
        TORCH_CHECK_VALUE(tag >= 0, "rdmatensor send: tag must be nonnegative");
        return start_send(tensors[0], peer, static_cast<uint64_t>(tag));
    }

    WorkPointer recv(Tensors &tensors, int peer, int tag) override
    {
        check_one("recv", tensors);
        check_peer("recv", peer);
        TORCH_CHECK_VALUE(tag >= 0, "rdmatensor recv: tag must be nonnegative");
        return start_receive(OpType::RECV, "recv", tensors[0], peer, static_cast<uint64_t>(tag));
    }

    WorkPointer recvAnysource(Tensors &tensors, int tag) override
    {
        check_one("recv", tensors);
        TORCH_CHECK_VALUE(tag >= 0, "rdmatensor recv: tag must be nonnegative");
        return start_receive(OpType::RECVANYSOURCE, "recvAnySource", tensors[0], -1, static_cast<uint64_t>(tag));
    }
};

// Rank 0 hears from everybody and answers everybody; who does not come is named. The group goes on in any case.
void BackendRdmatensor::monitoredBarrier(const c10d::BarrierOptions &options, bool wait_all_ranks)
{
    const int64_t timeout = options.timeout == c10d::kUnsetTimeout ? group_->timeout_ms.load() : options.timeout.count();
    const uint64_t tag = kInternalTag | group_->tags.fetch_add(1);
    const auto end = Clock::now() + Milliseconds(timeout);
    const auto left = [&] { return std::max(Milliseconds(1), std::chrono::duration_cast<Milliseconds>(end - Clock::now())); };
    at::Tensor token = at::zeros({1}, at::kByte);
    if (rank_ != 0) {
        start_send(token, 0, tag)->wait(left());
        try {
            start_receive(OpType::RECV, nullptr, token, 0, tag)->wait(left());
        } catch (const c10::Error &error) {
            TORCH_CHECK(false, "Rank ", std::to_string(rank_),
                        " successfully reached monitoredBarrier, but received errors while waiting for send/recv from rank 0. "
                        "Please check rank 0 logs for faulty rank.\n Original exception: \n",
                        error.what_without_backtrace());
        }
        return;
    }
    std::vector<c10::intrusive_ptr<TransferWork>> works;
    for (int rank = 1; rank < size_; rank++)
        works.push_back(start_receive(OpType::RECV, nullptr, at::zeros({1}, at::kByte), rank, tag));
    std::vector<int> missing;
    std::string why;
    for (int rank = 1; rank < size_; rank++) {
        TORCH_CHECK(Clock::now() < end || works[rank - 1]->isCompleted() || !missing.empty(),
                    "Rank 0 timed out in monitoredBarrier after ", std::to_string(timeout), " ms: rank ", std::to_string(rank),
                    " has not come");
        try {
            works[rank - 1]->wait(left());
        } catch (const c10::Error &error) {
            missing.push_back(rank);
            why = error.what_without_backtrace();
            if (!wait_all_ranks)
                break;
        }
    }
    if (missing.empty()) {
        for (int rank = 1; rank < size_; rank++)
            start_send(token, rank, tag)->wait(left());
        return;
    }
    std::string names;
    for (int rank : missing)
        names += (names.empty() ? "" : ", ") + std::to_string(rank);
    TORCH_CHECK(false, missing.size() > 1 ? "Ranks " : "Rank ", names, " failed to pass monitoredBarrier in ",
                std::to_string(timeout), " ms: ", why);
}

} // namespace rdmatensor

PYBIND11_MODULE(RDMATENSOR_MODULE, module)
{
    namespace py = pybind11;
    using rdmatensor::BackendRdmatensor;
    py::module_::import("torch._C._distributed_c10d");
    module.doc() = "torch.distributed over rdmatensor's teams";
    py::class_<BackendRdmatensor, c10d::Backend, c10::intrusive_ptr<BackendRdmatensor>>(module, "Backend")
        .def(py::init([](int rank, int size, py::object member, uintptr_t team, uintptr_t api, std::chrono::milliseconds timeout,
                         std::string events) {
            return c10::make_intrusive<BackendRdmatensor>(rank, size, std::move(member), team, api, timeout, std::move(events));
        }))
        .def_property_readonly("options", &BackendRdmatensor::getBackendOptions)
        .def("stats", &BackendRdmatensor::stats)
        .def_property_readonly("_member", &BackendRdmatensor::member);
}
