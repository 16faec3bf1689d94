// life.h: the lifetime of a process group, and how its operations reach the core: one at a time, at
// once or in the group's worker (`submit`), each with torch's deadline and errors. calls.h has the
// calls.
#pragma once

#include "group.h"
#include "notes.h"
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
        : Backend(rank, size), events_(std::move(events)), group_(new Group(std::move(member), team, api, timeout), Group::drop),
          options_(c10::make_intrusive<Options>(timeout))
    {
        init();
        std::lock_guard<std::mutex> lock(all_mutex());
        all_groups().remove_if([](const auto &group) { return group.expired(); });
        all_groups().push_back(group_);
    }

    // Also ends a group that was not destroyed, so that nothing is left behind.
    ~TeamBackend() override
    {
        group_->end("the process group was destroyed", false);
        try {
            group_->leave();
        } catch (const std::exception &error) {
            TORCH_WARN("rdmatensor: a process group was not left in good order: ", error.what());
        }
    }

    // Called before the interpreter goes: groups that were not destroyed end in an orderly way, and
    // with them the threads that use Python.
    static void end_all()
    {
        std::list<std::weak_ptr<Group>> groups;
        {
            std::lock_guard<std::mutex> lock(all_mutex());
            groups.swap(all_groups());
        }
        for (const auto &found : groups)
            if (GroupPointer group = found.lock())
                group->end("the process ended", false);
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

    // ---- memory that torch communicates from: buffers.py ----

    bool supportsTensorAlloc(c10::DeviceIndex) override
    {
        pybind11::gil_scoped_acquire gil;
        return member().attr("buffers").attr("usable").cast<bool>();
    }

    at::Tensor allocateTensor(long size, at::TensorOptions options) override
    {
        if (!options.device().is_cpu() || options.layout() != at::kStrided || options.pinned_memory() || size <= 0)
            return at::empty({size}, options);
        pybind11::gil_scoped_acquire gil;
        const at::ScalarType type = c10::typeMetaToScalarType(options.dtype());
        auto tensor = member().attr("buffers").attr("empty")(size, pybind11::cast(type)).cast<at::Tensor>();
        return tensor.set_requires_grad(options.requires_grad());
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
                {"kept_bytes", stats.kept_bytes},
                {"kept_bytes_max", stats.kept_bytes_max},
                {"held_back", stats.held_back},
                {"sleeps", stats.sleeps}};
    }

    pybind11::object member() const
    {
        return group_->member();
    }

  protected:
    // One call of the core, with its arguments and its result.
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

    // `inputs` and `outputs` are all tensors that the call uses.
    template <typename Opts>
    WorkPointer submit(OpType type, const char *title, const Tensors &inputs, Lists outputs, const Opts &options,
                       std::function<void(Call &)> body)
    {
        const int64_t timeout = options.timeout == c10d::kUnsetTimeout ? group_->timeout_ms.load() : options.timeout.count();
        const std::string event = event_of(title);
        auto work = c10::make_intrusive<CollectiveWork>(group_->completer(), rank_, type, event.empty() ? nullptr : event.c_str(),
                                                        inputs, std::move(outputs), ++sequence_);
        const auto run = [timeout, &body, &work](bool here) {
            work->execute([&] {
                Call call(timeout, here);
                body(call);
            });
        };
        const auto go = [&] {
            if (group_->run_here(!options.asyncOp, [&] { run(true); }))
                return;
            work->called_here();
            group_->enqueue(
                [timeout, body = std::move(body), work = work.get()] {
                    at::ThreadLocalStateGuard guard(work->caller());
                    work->execute([&] {
                        Call call(timeout, false);
                        body(call);
                    });
                },
                work);
        };
        go_seen(title, {inputs, work->outputs(), work->getSequencenumber(), root_of(options, rank_), false, options.asyncOp}, go);
        return work;
    }

    // Runs `go`, and records what a profiler reads of the operation when a profiler is active.
    void go_seen(const char *title, const Seen &seen, const std::function<void()> &go) const
    {
        if (title != nullptr && at::hasCallbacks())
            go_noted(*this, title, seen, options_->global_ranks_in_group, go);
        else
            go();
    }

    // The event name for a profiler; empty while no profiler is active.
    std::string event_of(const char *title) const
    {
        return title != nullptr && at::hasCallbacks() ? events_ + ":" + title : std::string();
    }

    void check_root(const char *what, int64_t root) const
    {
        RDMATENSOR_NEEDS(root >= 0 && root < size_, what, "invalid root rank: ", std::to_string(root));
    }

    void check_peer(const char *what, int peer) const
    {
        RDMATENSOR_NEEDS(peer >= 0 && peer < size_ && peer != rank_, what, "rank ", std::to_string(peer),
                         " is not another rank of this group of ", std::to_string(size_));
    }

    WorkPointer last_of(const WorkPointer &work, Tensors &outputs)
    {
        if (work)
            return work;
        auto none = c10::make_intrusive<CollectiveWork>(group_->completer(), rank_, OpType::COALESCED, nullptr, Tensors(),
                                                        Lists{outputs}, sequence_);
        none->execute([] {});
        return none;
    }

    c10::intrusive_ptr<TransferWork> work_of(OpType type, const char *title, int peer, Target target, at::Tensor source)
    {
        Completer::may_wait();
        group_->check_open();
        const std::string event = event_of(title);
        auto flight = std::make_shared<Flight>(group_->api(), group_->completer(), type == OpType::SEND, peer, std::move(target),
                                               std::move(source));
        return c10::make_intrusive<TransferWork>(group_, rank_, type, event.empty() ? nullptr : event.c_str(), std::move(flight),
                                                 ++sequence_);
    }

    static std::mutex &all_mutex()
    {
        static std::mutex mutex;
        return mutex;
    }
    static std::list<std::weak_ptr<Group>> &all_groups()
    {
        static std::list<std::weak_ptr<Group>> groups;
        return groups;
    }

    const std::string events_; // prefix of an operation's name in a profiler
    GroupPointer group_;
    c10::intrusive_ptr<Options> options_;
    std::atomic<uint64_t> sequence_{0};
};

} // namespace rdmatensor
