// calls.h: a process group's life, and the calls of the core that its operations are made of: one at a time, at once or in the group's
// worker (`submit`), each with the deadline and the errors of torch. backend.cpp has the operations.
#pragma once

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

class TeamBackend : public c10d::Backend {
  public:
    struct Options : c10d::Backend::Options {
        explicit Options(Milliseconds timeout) : c10d::Backend::Options("rdmatensor", timeout)
        {
        }
    };

    TeamBackend(int rank, int size, pybind11::object member, uintptr_t team, uintptr_t api, Milliseconds timeout,
                std::string events)
        : Backend(rank, size), events_(std::move(events)), group_(std::make_shared<Group>(std::move(member), team, api, timeout)),
          options_(c10::make_intrusive<Options>(timeout))
    {
        init();
    }

    ~TeamBackend() override
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

  protected:
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
        TORCH_CHECK_VALUE(root >= 0 && root < size_, "rdmatensor ", what, ": invalid root rank: ", std::to_string(root));
    }

    void check_peer(const char *what, int peer) const
    {
        TORCH_CHECK_VALUE(peer >= 0 && peer < size_ && peer != rank_, "rdmatensor ", what, ": rank ", std::to_string(peer),
                          " is not another rank of this group of ", std::to_string(size_));
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

    // Where each rank's part of a contiguous tensor begins.
    static std::vector<void *> parts_of(void *bytes, size_t size, int count)
    {
        std::vector<void *> parts(count);
        for (int rank = 0; rank < count; rank++)
            parts[rank] = static_cast<uint8_t *>(bytes) + rank * size;
        return parts;
    }

    void scatter_reduced(Call &call, const Reduction &op, const at::Tensor &output, const std::vector<void *> &inputs)
    {
        Target target(output, false);
        call.about(output, op.code, -1);
        call("reduce_scatter",
             group_->api()->reduce_scatter(group_->team(), &call.call, inputs.data(), target.bytes(), output.numel()));
        finish_reduction(op, target);
    }

    void gather_all(Call &call, const at::Tensor &input, const Tensors &outputs)
    {
        std::vector<Target> targets;
        std::vector<void *> places;
        for (const auto &output : outputs)
            targets.emplace_back(output, false);
        for (const auto &target : targets)
            places.push_back(target.bytes());
        gather_into(call, input.contiguous(), places);
        for (const auto &target : targets)
            target.put();
    }

    void gather_into(Call &call, const at::Tensor &source, const std::vector<void *> &places)
    {
        call.about(source, 0, -1);
        call("all_gather",
             group_->api()->gather_all(group_->team(), &call.call, bytes_of(source), places.data(), source.nbytes()));
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
        gather_all(call, mine, blocks_of(counts, size_));
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

} // namespace rdmatensor
