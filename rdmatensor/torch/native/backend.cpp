// backend.cpp: the operations of torch.distributed over a team, and the Python module.
//
// Each operation checks its tensors, turns them into contiguous memory, and makes one call to the C
// core. `submit` makes the call at once when the caller waits for it and no call is queued before
// it, else in the group's worker (life.h).
#include "calls.h"

namespace rdmatensor {

class BackendRdmatensor : public TeamCalls {
  public:
    using TeamCalls::TeamCalls;

    // ---- reductions ----

    WorkPointer allreduce(Tensors &tensors, const c10d::AllreduceOptions &options) override
    {
        if (tensors.size() == 1 && tensors[0].defined() && tensors[0].is_sparse())
            return allreduce_sparse(tensors, options);
        if (tensors.size() > 1)
            return reduce_together(tensors, options);
        return reduce_each(OpType::ALLREDUCE, "all_reduce", tensors, options);
    }

    WorkPointer allreduce_coalesced(Tensors &tensors, const c10d::AllreduceCoalescedOptions &options) override
    {
        return reduce_each(OpType::ALLREDUCE_COALESCED, "all_reduce_coalesced", tensors, options);
    }

    WorkPointer allreduce_sparse(Tensors &tensors, const c10d::AllreduceOptions &options) override
    {
        RDMATENSOR_NEEDS(tensors.size() == 1 && tensors[0].is_sparse() && tensors[0].device().is_cpu(), "all_reduce",
                         "one sparse tensor on the CPU is needed");
        RDMATENSOR_NEEDS(options.reduceOp == c10d::ReduceOp::SUM, "all_reduce", "sparse tensors can only be summed");
        check_tensor("all_reduce", tensors[0]._indices(), " of indices");
        check_tensor("all_reduce", tensors[0]._values(), " of values");
        at::Tensor tensor = tensors[0];
        return submit(OpType::_ALLREDUCE_SPARSE, "sparse_all_reduce", tensors, {{tensor}}, options, [this, tensor](auto &call) {
            Writing guard(tensor);
            at::Tensor(tensor).copy_(sum_sparse(call, tensor.coalesce()));
        });
    }

    WorkPointer reduce(Tensors &tensors, const c10d::ReduceOptions &options) override
    {
        check_single("reduce", tensors);
        check_output("reduce", tensors[0]);
        check_root("reduce", options.rootRank);
        const Reduction reduction = reduction_of("reduce", options.reduceOp, tensors[0].scalar_type());
        const int root = static_cast<int>(options.rootRank);
        at::Tensor tensor = tensors[0];
        return submit(OpType::REDUCE, "reduce", tensors, {tensors}, options, [this, tensor, reduction, root](auto &call) {
            Target target(tensor);
            at::Tensor input = scale(reduction, target.memory);
            call.about(tensor, reduction.code, root);
            call("reduce", group_->api()->reduce(group_->team(), &call.call, bytes_of(input), target.bytes(), input.numel()));
            if (root != rank_)
                return;
            average(reduction, target);
            target.put();
        });
    }

    WorkPointer _reduce_scatter_base(at::Tensor &output, at::Tensor &input, const c10d::ReduceScatterOptions &options) override
    {
        check_tensor("reduce_scatter", input);
        check_same_type("reduce_scatter", output, input, 0);
        check_output("reduce_scatter", output);
        RDMATENSOR_NEEDS(output.numel() * size_ == input.numel(), "reduce_scatter", "the input must be ", std::to_string(size_),
                         " times the output of ", shape_of(output), ", not ", shape_of(input));
        Tensors inputs{input};
        return submit(OpType::_REDUCE_SCATTER_BASE, "_reduce_scatter_base", inputs, {{output}}, options,
                      [this, output, input,
                       op = reduction_of("reduce_scatter", options.reduceOp, input.scalar_type())](auto &call) {
                          const at::Tensor source = scale(op, apart_but_for_own(input, output));
                          scatter_reduced(call, op, output, parts_of(bytes_of(source), source.nbytes() / size_, size_));
                      });
    }

    WorkPointer reduce_scatter(Tensors &outputs, Lists &inputs, const c10d::ReduceScatterOptions &options) override
    {
        check_single("reduce_scatter", outputs);
        check_output("reduce_scatter", outputs[0]);
        RDMATENSOR_NEEDS(inputs.size() == 1 && inputs[0].size() == static_cast<size_t>(size_), "reduce_scatter",
                         "one list with one input tensor per rank is needed: ", std::to_string(size_));
        at::Tensor output = outputs[0];
        bool even = true;
        for (int rank = 0; rank < size_; rank++) {
            check_same_type("reduce_scatter", inputs[0][rank], output, rank);
            even = even && inputs[0][rank].numel() == output.numel();
        }
        check_alike("reduce_scatter", inputs[0][rank_], output, rank_);
        return submit(OpType::REDUCE_SCATTER, "reduce_scatter", inputs[0], {outputs}, options,
                      [this, output, even, list = inputs[0],
                       op = reduction_of("reduce_scatter", options.reduceOp, output.scalar_type())](auto &call) {
                          Tensors blocks;
                          std::vector<void *> places;
                          for (int rank = 0; rank < size_; rank++) {
                              const void *own = even && rank == rank_ ? place_of(output) : nullptr;
                              blocks.push_back(scale(op, apart_from(list[rank], {output}, own)));
                              places.push_back(bytes_of(blocks.back()));
                          }
                          if (even)
                              scatter_reduced(call, op, output, places);
                          else
                              scatter_uneven(call, op, output, blocks);
                      });
    }

    WorkPointer reduce_scatter_tensor_coalesced(Tensors &outputs, Tensors &inputs,
                                                const c10d::ReduceScatterOptions &options) override
    {
        RDMATENSOR_NEEDS(outputs.size() == inputs.size(), "reduce_scatter", "as many inputs as outputs are needed");
        check_outputs("reduce_scatter", outputs);
        WorkPointer work;
        for (size_t index = 0; index < outputs.size(); index++)
            work = _reduce_scatter_base(outputs[index], inputs[index], options);
        return last_of(work, outputs);
    }

    // ---- gathering and spreading ----

    // The root's tensor at `rootTensor` is copied to all tensors of all ranks.
    WorkPointer broadcast(Tensors &tensors, const c10d::BroadcastOptions &options) override
    {
        check_root("broadcast", options.rootRank);
        RDMATENSOR_NEEDS(options.rootTensor >= 0 && options.rootTensor < static_cast<int64_t>(tensors.size()), "broadcast",
                         "invalid root tensor: ", std::to_string(options.rootTensor));
        for (size_t index = 0; index < tensors.size(); index++) {
            check_alike("broadcast", tensors[index], tensors[0], index);
            check_output("broadcast", tensors[index], tensors.size() > 1 ? at_index(index) : "");
        }
        at::Tensor tensor = tensors[options.rootTensor];
        const int root = static_cast<int>(options.rootRank);
        return submit(OpType::BROADCAST, "broadcast", tensors, {tensors}, options, [this, tensors, tensor, root](auto &call) {
            Target target(tensor, root == rank_);
            call.about(tensor, 0, root);
            call("broadcast", group_->api()->broadcast(group_->team(), &call.call, target.bytes(), target.memory.nbytes()));
            if (root != rank_)
                target.put();
            for (const auto &other : tensors) {
                Writing guard(other);
                if (!other.is_same(tensor))
                    at::Tensor(other).copy_(target.memory);
            }
        });
    }

    // With several inputs for each rank, there are as many output lists, each with all tensors of
    // all ranks.
    WorkPointer allgather(Lists &outputs, Tensors &inputs, const c10d::AllgatherOptions &options) override
    {
        RDMATENSOR_NEEDS(!inputs.empty() && outputs.size() == inputs.size(), "all_gather",
                         "requires input and output tensor lists of the same length, not ", std::to_string(inputs.size()),
                         " and ", std::to_string(outputs.size()));
        const size_t count = inputs.size() * size_;
        Tensors written;
        for (size_t list = 0; list < outputs.size(); list++) {
            check_alike("all_gather", inputs[list], inputs[0], list);
            RDMATENSOR_NEEDS(outputs[list].size() == count, "all_gather", "invalid output tensor list", at_index(list),
                             ", expected length ", std::to_string(count), ", got ", std::to_string(outputs[list].size()));
            for (size_t index = 0; index < count; index++)
                check_alike("all_gather", outputs[list][index], inputs[0], index);
            written.insert(written.end(), outputs[list].begin(), outputs[list].end());
        }
        check_outputs("all_gather", written);
        return submit(OpType::ALLGATHER, "all_gather", inputs, outputs, options, [this, outputs, inputs](auto &call) {
            for (size_t index = 0; index < inputs.size(); index++)
                gather_all(call, inputs[index], every(outputs[0], index, inputs.size()));
            for (size_t list = 1; list < outputs.size(); list++)
                for (size_t index = 0; index < outputs[0].size(); index++) {
                    Writing guard(outputs[list][index]);
                    at::Tensor(outputs[list][index]).copy_(outputs[0][index]);
                }
        });
    }

    WorkPointer _allgather_base(at::Tensor &output, at::Tensor &input, const c10d::AllgatherOptions &options) override
    {
        check_tensor("all_gather", input);
        check_same_type("all_gather", output, input, 0);
        check_output("all_gather", output);
        RDMATENSOR_NEEDS(input.numel() * size_ == output.numel(), "all_gather", "the output must be ", std::to_string(size_),
                         " times the input of ", shape_of(input), ", not ", shape_of(output));
        Tensors inputs{input};
        return submit(OpType::_ALLGATHER_BASE, "_all_gather_base", inputs, {{output}}, options,
                      [this, output, input](auto &call) {
                          Target target(output, false);
                          const at::Tensor source = apart_but_for_own(input, target.memory);
                          gather_into(call, source, parts_of(target.bytes(), source.nbytes(), size_));
                          target.put();
                      });
    }

    WorkPointer allgather_coalesced(Lists &outputs, Tensors &inputs, const c10d::AllgatherOptions &options) override
    {
        RDMATENSOR_NEEDS(outputs.size() == static_cast<size_t>(size_), "all_gather_coalesced",
                         "one list of outputs per rank is needed: ", std::to_string(size_));
        Lists lists(inputs.size());
        Tensors written;
        for (size_t index = 0; index < inputs.size(); index++) {
            check_tensor("all_gather_coalesced", inputs[index], at_index(index));
            for (auto &list : outputs) {
                RDMATENSOR_NEEDS(list.size() == inputs.size(), "all_gather_coalesced", "one output per input and rank is needed");
                check_alike("all_gather_coalesced", list[index], inputs[index], index);
                lists[index].push_back(list[index]);
                written.push_back(list[index]);
            }
        }
        check_outputs("all_gather_coalesced", written);
        return submit(OpType::ALLGATHER_COALESCED, "all_gather", inputs, outputs, options, [this, lists, inputs](auto &call) {
            for (size_t index = 0; index < inputs.size(); index++)
                gather_all(call, inputs[index], lists[index]);
        });
    }

    WorkPointer allgather_into_tensor_coalesced(Tensors &outputs, Tensors &inputs, const c10d::AllgatherOptions &options) override
    {
        RDMATENSOR_NEEDS(outputs.size() == inputs.size(), "all_gather", "as many inputs as outputs are needed");
        check_outputs("all_gather", outputs);
        WorkPointer work;
        for (size_t index = 0; index < outputs.size(); index++)
            work = _allgather_base(outputs[index], inputs[index], options);
        return last_of(work, outputs);
    }

    WorkPointer gather(Lists &outputs, Tensors &inputs, const c10d::GatherOptions &options) override
    {
        check_single("gather", inputs);
        check_root("gather", options.rootRank);
        const int root = static_cast<int>(options.rootRank);
        if (root == rank_) {
            RDMATENSOR_NEEDS(outputs.size() == 1 && outputs[0].size() == static_cast<size_t>(size_), "gather",
                             "the root needs one output tensor per rank: ", std::to_string(size_));
            for (int rank = 0; rank < size_; rank++)
                check_alike("gather", outputs[0][rank], inputs[0], rank);
            check_outputs("gather", outputs[0]);
        } else {
            RDMATENSOR_NEEDS(outputs.empty(), "gather", "requires empty output on non-root");
        }
        return submit(OpType::GATHER, "gather", inputs, outputs, options, [this, outputs, input = inputs[0], root](auto &call) {
            Tensors sends(size_), receives(size_);
            sends[root] = input;
            if (root == rank_)
                receives = outputs[0];
            exchange(call, RT_TEAM_GATHER, sends, receives, input, root);
        });
    }

    WorkPointer scatter(Tensors &outputs, Lists &inputs, const c10d::ScatterOptions &options) override
    {
        check_single("scatter", outputs);
        check_output("scatter", outputs[0]);
        check_root("scatter", options.rootRank);
        const int root = static_cast<int>(options.rootRank);
        if (root == rank_) {
            RDMATENSOR_NEEDS(inputs.size() == 1 && inputs[0].size() == static_cast<size_t>(size_), "scatter",
                             "the root needs one input tensor per rank: ", std::to_string(size_));
            for (int rank = 0; rank < size_; rank++)
                check_alike("scatter", inputs[0][rank], outputs[0], rank);
        } else {
            RDMATENSOR_NEEDS(inputs.empty(), "scatter", "requires empty input on non-root");
        }
        Tensors given = inputs.empty() ? Tensors() : inputs[0];
        return submit(OpType::SCATTER, "scatter", given, {outputs}, options,
                      [this, given, output = outputs[0], root](auto &call) {
                          Tensors sends(size_), receives(size_);
                          receives[root] = output;
                          if (root == rank_)
                              sends = given;
                          exchange(call, RT_TEAM_SCATTER, sends, receives, output, root);
                      });
    }

    WorkPointer alltoall(Tensors &outputs, Tensors &inputs, const c10d::AllToAllOptions &options) override
    {
        RDMATENSOR_NEEDS(outputs.size() == static_cast<size_t>(size_) && inputs.size() == static_cast<size_t>(size_),
                         "all_to_all", "one input and one output tensor per rank are needed: ", std::to_string(size_));
        for (int rank = 0; rank < size_; rank++) {
            check_same_type("all_to_all", inputs[rank], inputs[0], rank);
            check_same_type("all_to_all", outputs[rank], inputs[0], rank);
        }
        check_alike("all_to_all", outputs[rank_], inputs[rank_], rank_);
        check_outputs("all_to_all", outputs);
        return submit(OpType::ALLTOALL, "all_to_all", inputs, {outputs}, options, [this, outputs, inputs](auto &call) {
            exchange(call, RT_TEAM_ALL_TO_ALL, inputs, outputs, inputs[0], -1);
        });
    }

    WorkPointer alltoall_base(at::Tensor &output, at::Tensor &input, std::vector<int64_t> &output_splits,
                              std::vector<int64_t> &input_splits, const c10d::AllToAllOptions &options) override
    {
        check_tensor("all_to_all", input);
        check_same_type("all_to_all", output, input, 0);
        check_output("all_to_all", output);
        c10d::checkSplitSizes(input_splits, input, size_);
        c10d::checkSplitSizes(output_splits, output, size_);
        Tensors inputs{input};
        return submit(OpType::ALLTOALL_BASE, "all_to_all", inputs, {{output}}, options,
                      [this, output, input, output_splits, input_splits](auto &call) {
                          Target target(output, false);
                          const at::Tensor source = input.contiguous();
                          exchange(call, RT_TEAM_ALL_TO_ALL, split_rows(source, input_splits),
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
        check_single("send", tensors);
        check_peer("send", peer);
        RDMATENSOR_NEEDS(tag >= 0, "send", "tag must be nonnegative");
        return start_send(tensors[0], peer, static_cast<uint64_t>(tag));
    }

    WorkPointer recv(Tensors &tensors, int peer, int tag) override
    {
        check_single("recv", tensors);
        check_peer("recv", peer);
        RDMATENSOR_NEEDS(tag >= 0, "recv", "tag must be nonnegative");
        return start_receive(OpType::RECV, "recv", tensors[0], peer, static_cast<uint64_t>(tag));
    }

    WorkPointer recvAnysource(Tensors &tensors, int tag) override
    {
        check_single("recv", tensors);
        RDMATENSOR_NEEDS(tag >= 0, "recv", "tag must be nonnegative");
        return start_receive(OpType::RECVANYSOURCE, "recvAnySource", tensors[0], -1, static_cast<uint64_t>(tag));
    }
};

// Rank 0 receives a token from every rank and answers each; the error names the missing ranks. The
// group remains usable in either case.
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
            start_receive(OpType::RECV, nullptr, token, 0, tag)->wait(left()); // given up if the wait fails
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
    for (const auto &work : works) // a token that comes later has no receiver
        work->give_up();
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
    rdmatensor::translate_errors();
    py::class_<BackendRdmatensor, c10d::Backend, c10::intrusive_ptr<BackendRdmatensor>>(module, "Backend")
        .def(py::init([](int rank, int size, py::object member, uintptr_t team, uintptr_t api, std::chrono::milliseconds timeout,
                         std::string events) {
            return c10::make_intrusive<BackendRdmatensor>(rank, size, std::move(member), team, api, timeout, std::move(events));
        }))
        .def_property_readonly("options", &BackendRdmatensor::getBackendOptions)
        .def("stats", &BackendRdmatensor::stats)
        .def_property_readonly("_member", &BackendRdmatensor::member);
    module.def("end_all", &BackendRdmatensor::end_all, py::call_guard<py::gil_scoped_release>());
}
