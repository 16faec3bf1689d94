// backend.cpp: the operations of torch.distributed over a team, and the Python module with it.
//
// Each operation checks its tensors, turns them into contiguous memory, and gives one call to the C core; `submit` runs it at
// once when the caller waits for it and nothing is before it, else in the group's worker.
#include "group.h"
#include "reduce.h"
#include "tensors.h"
#include "work.h"

namespace rdmatensor {

using c10d::OpType;
using c10d::Work;
using Tensors = std::vector<at::Tensor>;
using Lists = std::vector<Tensors>;
using WorkPointer = c10::intrusive_ptr<Work>;

constexpr uint64_t kInternalTag = 1ull << 63;

class BackendRdmatensor : public c10d::Backend {
  public:
    struct Options : c10d::Backend::Options {
        explicit Options(Milliseconds timeout) : c10d::Backend::Options("rdmatensor", timeout)
        {
        }
    };

    BackendRdmatensor(int rank, int size, pybind11::object member, uintptr_t team, uintptr_t api, Milliseconds timeout,
                      std::string events)
        : Backend(rank, size), events_(std::move(events)), group_(std::make_shared<Group>(std::move(member), team, api, timeout)),
          options_(c10::make_intrusive<Options>(timeout))
    {
        init();
    }

    ~BackendRdmatensor() override
    {
        group_->end("the process group was destroyed", false);
    }

    const std::string getBackendName() const override
    {
        return "rdmatensor";
    }
    bool supportsSplitting() const override
    {
        return true;
    }
    c10::intrusive_ptr<c10d::Backend::Options> getBackendOptions() override
    {
        return options_;
    }
    c10d::ErrorType getError() override
    {
        return group_->failure() == RT_OK ? c10d::ErrorType::SUCCESS : c10d::ErrorType::COMM_ERROR;
    }

    void setTimeout(Milliseconds timeout) override
    {
        group_->timeout_ms = timeout.count();
        options_->timeout = timeout;
    }

    void abort() override
    {
        group_->end("the process group was aborted", true);
    }

    void shutdown() override
    {
        group_->end("the process group was shut down", false);
        group_->leave();
    }

    void setSequenceNumberForGroup() override
    {
    }
    uint64_t getSequenceNumberForGroup() override
    {
        return sequence_;
    }

    c10::intrusive_ptr<Backend> split(const c10::intrusive_ptr<c10d::Store> &store, const std::vector<int> &ranks,
                                      const c10::intrusive_ptr<c10d::Backend::Options> &options) override
    {
        auto here = std::find(ranks.begin(), ranks.end(), rank_);
        if (here == ranks.end())
            return nullptr;
        pybind11::gil_scoped_acquire gil;
        auto make = pybind11::module_::import("rdmatensor.torch.backend").attr("create_split");
        return make(store, here - ranks.begin(), ranks.size(), options ? options->timeout : Milliseconds(group_->timeout_ms))
            .cast<c10::intrusive_ptr<Backend>>();
    }

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
                      [this, output, input, op = reduction_of("reduce_scatter", options.reduceOp, input.scalar_type())](
                          auto &call) { scatter_reduced(call, op, output, blocks_of(scale(op, input.contiguous()), size_)); });
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
                          for (const auto &input : list)
                              blocks.push_back(scale(op, input.contiguous()));
                          scatter_reduced(call, op, output, blocks);
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
                      [this, list = outputs[0], input = inputs[0]](auto &call) { gather(call, input, list); });
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
                          gather(call, input, blocks_of(target.memory, size_));
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
                gather(call, inputs[index], lists[index]);
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

    std::map<std::string, uint64_t> stats() const
    {
        rt_team_stats stats;
        group_->api()->get_stats(group_->team(), &stats);
        return {{"collectives", stats.collectives},
                {"sends", stats.sends},
                {"receives", stats.receives},
                {"bytes_sent", stats.bytes_sent},
                {"bytes_received", stats.bytes_received},
                {"staged_bytes", stats.staged_bytes},
                {"direct_bytes", stats.direct_bytes},
                {"direct_received_bytes", stats.direct_received_bytes},
                {"reduced_in_place_bytes", stats.reduced_in_place_bytes},
                {"unexpected", stats.unexpected},
                {"unexpected_bytes", stats.unexpected_bytes},
                {"sleeps", stats.sleeps}};
    }

    pybind11::object member() const
    {
        return group_->member();
    }

  private:
    // One call of the core, with what it needs to know and how it ended.
    struct Call {
        rt_team_call call = {};
        rt_detail detail = {};
        Call(int64_t timeout_ms, bool here)
        {
            call.root = -1;
            call.timeout_ns = timeout_ms > INT64_MAX / 1000000 ? INT64_MAX : timeout_ms * 1000000;
            call.reduce = reduce_with_torch;
            call.interrupted = here ? interrupted : nullptr;
            call.detail = &detail;
        }
        Call(const Call &) = delete;
        void about(const at::Tensor &tensor, uint32_t reduction, int root)
        {
            call.dtype = dtype_code(tensor.scalar_type());
            call.reduction = reduction;
            call.root = root;
        }
        void operator()(const char *what, int status) const
        {
            if (status != RT_OK)
                raise(what, status, detail);
        }
    };

    template <typename Opts>
    WorkPointer submit(OpType type, const char *title, const Tensors &inputs, Lists outputs, const Opts &options,
                       std::function<void(Call &)> body)
    {
        const int64_t timeout = options.timeout == c10d::kUnsetTimeout ? group_->timeout_ms.load() : options.timeout.count();
        const std::string event = event_of(title);
        auto work = c10::make_intrusive<CollectiveWork>(rank_, type, event.empty() ? nullptr : event.c_str(), inputs,
                                                        std::move(outputs), ++sequence_);
        const auto run = [timeout, &body, &work](bool here) {
            work->execute([&] {
                Call call(timeout, here);
                body(call);
            });
        };
        if (group_->run_here(!options.asyncOp, [&] { run(true); }))
            return work;
        group_->enqueue([timeout, body = std::move(body), work, state = at::ThreadLocalState()] {
            at::ThreadLocalStateGuard guard(state);
            work->execute([&] {
                Call call(timeout, false);
                body(call);
            });
        });
        return work;
    }

    // What a profiler shows; nothing while none looks.
    std::string event_of(const char *title) const
    {
        return title != nullptr && at::hasCallbacks() ? events_ + ":" + title : std::string();
    }

    void check_root(const char *what, int64_t root) const
    {
        TORCH_CHECK_VALUE(root >= 0 && root < size_, "rdmatensor ", what, ": invalid root rank: ", root);
    }

    void check_peer(const char *what, int peer) const
    {
        TORCH_CHECK_VALUE(peer >= 0 && peer < size_ && peer != rank_, "rdmatensor ", what, ": rank ", peer,
                          " is not another rank of this group of ", size_);
    }

    WorkPointer last_of(const WorkPointer &work, Tensors &outputs)
    {
        if (work)
            return work;
        auto none =
            c10::make_intrusive<CollectiveWork>(rank_, OpType::COALESCED, nullptr, std::nullopt, Lists{outputs}, sequence_);
        none->execute([] {});
        return none;
    }

    static Tensors blocks_of(const at::Tensor &tensor, int size)
    {
        Tensors blocks;
        const at::Tensor flat = tensor.view(-1);
        for (int rank = 0; rank < size; rank++)
            blocks.push_back(flat.narrow(0, rank * (flat.numel() / size), flat.numel() / size));
        return blocks;
    }

    Tensors split_rows(const at::Tensor &tensor, const std::vector<int64_t> &splits) const
    {
        if (splits.empty())
            return blocks_of(tensor, size_);
        Tensors rows;
        int64_t from = 0;
        for (int rank = 0; rank < size_; from += splits[rank++])
            rows.push_back(tensor.narrow(0, from, splits[rank]));
        return rows;
    }

    WorkPointer reduce_all(OpType type, const char *title, const Tensors &tensors, const c10d::AllreduceOptions &options)
    {
        TORCH_CHECK_VALUE(!tensors.empty(), "rdmatensor all_reduce: requires a non-empty tensor list");
        std::vector<Reduction> reductions;
        for (const auto &tensor : tensors) {
            check_tensor("all_reduce", tensor);
            reductions.push_back(reduction_of("all_reduce", options.reduceOp, tensor.scalar_type()));
        }
        return submit(type, title, tensors, {tensors}, options, [this, tensors, reductions](auto &call) {
            for (size_t index = 0; index < tensors.size(); index++) {
                Target target(tensors[index]);
                at::Tensor input = scale(reductions[index], target.memory);
                call.about(input, reductions[index].code, -1);
                call("all_reduce",
                     group_->api()->reduce(group_->team(), &call.call, bytes_of(input), target.bytes(), input.numel()));
                finish_reduction(reductions[index], target);
            }
        });
    }

    void finish_reduction(const Reduction &reduction, const Target &target) const
    {
        if (reduction.averages) {
            at::NoGradGuard guard;
            at::Tensor(target.memory).div_(size_);
        }
        target.put();
    }

    void scatter_reduced(Call &call, const Reduction &op, const at::Tensor &output, const Tensors &blocks)
    {
        std::vector<const void *> inputs;
        for (const auto &block : blocks)
            inputs.push_back(bytes_of(block));
        Target target(output, false);
        call.about(output, op.code, -1);
        call("reduce_scatter",
             group_->api()->reduce_scatter(group_->team(), &call.call, inputs.data(), target.bytes(), output.numel()));
        finish_reduction(op, target);
    }

    void gather(Call &call, const at::Tensor &input, const Tensors &outputs)
    {
        at::Tensor source = input.contiguous();
        std::vector<Target> targets;
        std::vector<void *> places;
        for (const auto &output : outputs)
            targets.emplace_back(output, false);
        for (const auto &target : targets)
            places.push_back(target.bytes());
        call.about(input, 0, -1);
        call("all_gather",
             group_->api()->gather_all(group_->team(), &call.call, bytes_of(source), places.data(), source.nbytes()));
        for (const auto &target : targets)
            target.put();
    }

    // To and from each rank; an undefined tensor is none.
    void exchange(Call &call, const char *what, const Tensors &sends, const Tensors &receives, const at::Tensor &like, int root)
    {
        std::vector<rt_team_piece> out(size_), in(size_);
        Tensors sources;
        std::vector<Target> targets;
        std::vector<int> of;
        for (int rank = 0; rank < size_; rank++) {
            if (sends[rank].defined()) {
                sources.push_back(sends[rank].contiguous());
                out[rank] = {bytes_of(sources.back()), sources.back().nbytes()};
            }
            if (receives[rank].defined()) {
                targets.emplace_back(receives[rank], false);
                in[rank] = {targets.back().bytes(), targets.back().memory.nbytes()};
            }
        }
        call.about(like, 0, root);
        call(what, group_->api()->exchange(group_->team(), &call.call, out.data(), in.data()));
        for (const auto &target : targets)
            target.put();
    }

    // The sum of everybody's sparse tensors: sizes first, then indices and values.
    at::Tensor sum_sparse(Call &call, const at::Tensor &own)
    {
        at::Tensor mine = at::tensor({own._nnz()}, at::kLong);
        at::Tensor counts = at::empty({size_}, at::kLong);
        gather(call, mine, blocks_of(counts, size_));
        const at::Tensor indices = own._indices().contiguous(), values = own._values().contiguous();
        Tensors index_sends(size_, indices), value_sends(size_, values), index_parts, value_parts;
        for (int rank = 0; rank < size_; rank++) {
            const int64_t count = counts[rank].item<int64_t>();
            auto shape = values.sizes().vec();
            shape[0] = count;
            index_parts.push_back(at::empty({indices.size(0), count}, indices.options()));
            value_parts.push_back(at::empty(shape, values.options()));
        }
        exchange(call, "all_reduce", index_sends, index_parts, indices, -1);
        exchange(call, "all_reduce", value_sends, value_parts, values, -1);
        return at::sparse_coo_tensor(at::cat(index_parts, 1), at::cat(value_parts, 0), own.sizes()).coalesce();
    }

    c10::intrusive_ptr<TransferWork> start_send(const at::Tensor &tensor, int peer, uint64_t tag)
    {
        group_->check_open();
        const std::string event = event_of("send");
        auto work = c10::make_intrusive<TransferWork>(group_, rank_, OpType::SEND, event.empty() ? nullptr : event.c_str(),
                                                      Target(tensor), ++sequence_);
        at::Tensor source = tensor.contiguous();
        work->keep(source);
        work->peer = peer;
        rt_team_transfer *transfer = nullptr;
        rt_detail detail = {};
        int status = group_->api()->send(group_->team(), static_cast<uint32_t>(peer), tag, dtype_code(tensor.scalar_type()),
                                         bytes_of(source), source.nbytes(), &transfer, &detail);
        work->started(status, transfer, -1, detail);
        return work;
    }

    c10::intrusive_ptr<TransferWork> start_receive(OpType type, const char *title, const at::Tensor &tensor, int peer,
                                                   uint64_t tag)
    {
        group_->check_open();
        Target target(tensor, false);
        const std::string event = event_of(title);
        auto work =
            c10::make_intrusive<TransferWork>(group_, rank_, type, event.empty() ? nullptr : event.c_str(), target, ++sequence_);
        work->peer = peer;
        rt_team_transfer *transfer = nullptr;
        rt_detail detail = {};
        int32_t source = -1;
        int status = group_->api()->receive(group_->team(), peer, tag, dtype_code(tensor.scalar_type()), target.bytes(),
                                            target.memory.nbytes(), &transfer, &source, &detail);
        work->started(status, transfer, source, detail);
        return work;
    }

    const std::string events_; // what a profiler sees in front of an operation's name
    GroupPointer group_;
    c10::intrusive_ptr<Options> options_;
    std::atomic<uint64_t> sequence_{0};
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
            TORCH_CHECK(false, "Rank ", rank_,
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
                    "Rank 0 timed out in monitoredBarrier after ", timeout, " ms: rank ", rank, " has not come");
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
    TORCH_CHECK(false, missing.size() > 1 ? "Ranks " : "Rank ", names, " failed to pass monitoredBarrier in ", timeout,
                " ms: ", why);
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
