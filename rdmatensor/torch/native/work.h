// work.h: the Works that calls return: a collective call that is done or will be, or a send or
// receive.
#pragma once

#include "group.h"

namespace rdmatensor {

// The outputs in the form of Gloo's futures: nothing, the tensors of one list, or several lists.
inline c10::IValue value_of(const std::vector<std::vector<at::Tensor>> &outputs)
{
    if (outputs.empty())
        return c10::IValue(std::vector<at::Tensor>());
    if (outputs.size() == 1)
        return c10::IValue(outputs[0]);
    return c10::IValue(outputs);
}

inline c10::TypePtr type_of(const std::vector<std::vector<at::Tensor>> &outputs)
{
    auto list = c10::ListType::create(c10::TensorType::get());
    return outputs.size() > 1 ? c10::TypePtr(c10::ListType::create(list)) : c10::TypePtr(list);
}

// The Work keeps the tensors of the call, so that the group's worker never frees one.
class CollectiveWork : public c10d::Work {
  public:
    CollectiveWork(std::shared_ptr<Completer> completer, int rank, c10d::OpType type, const char *title,
                   const std::vector<at::Tensor> &inputs, std::vector<std::vector<at::Tensor>> outputs, uint64_t sequence)
        : Work(rank, type, title, inputs), completer_(std::move(completer)), inputs_(inputs), outputs_(std::move(outputs)),
          sequence_(sequence)
    {
    }

    // Runs in the caller's thread or the group's worker; an exception is stored in the work, not
    // thrown.
    void execute(const std::function<void()> &call)
    {
        std::exception_ptr error;
        try {
            NoPythonModes none;
            call();
        } catch (...) {
            error = std::current_exception();
        }
        if (put_aside())
            error = std::exchange(put_aside(), nullptr);
        settle(error);
    }

    const std::vector<std::vector<at::Tensor>> &outputs() const
    {
        return outputs_;
    }

    // Stores the caller's thread state for a call that runs in another thread: its callbacks, too,
    // run in the modes that were set in the caller.
    void called_here()
    {
        caller_ = at::ThreadLocalState();
    }
    const at::ThreadLocalState &caller() const
    {
        return *caller_;
    }

    bool isCompleted() override
    {
        if (!Work::isCompleted())
            return false;
        std::lock_guard<std::mutex> lock(future_mutex_);
        return !future_ || future_->completed();
    }

    bool wait(Milliseconds timeout) override
    {
        Completer::may_wait();
        std::exception_ptr error;
        try {
            Work::wait(timeout);
        } catch (...) {
            if (!Work::isCompleted())
                throw; // the time is over
            error = std::current_exception();
        }
        c10::intrusive_ptr<c10::ivalue::Future> future;
        {
            std::lock_guard<std::mutex> lock(future_mutex_);
            future = future_;
        }
        if (future) // it has its value when this returns; its callbacks may still run
            future->wait();
        if (error)
            std::rethrow_exception(error);
        return true;
    }

    std::vector<at::Tensor> result() override
    {
        TORCH_CHECK(Work::isCompleted(), "rdmatensor: the work has no result before it is done");
        std::vector<at::Tensor> all;
        for (const auto &list : outputs_)
            all.insert(all.end(), list.begin(), list.end());
        return all;
    }

    c10::intrusive_ptr<c10::ivalue::Future> getFuture() override
    {
        Completer::may_wait();
        c10::intrusive_ptr<c10::ivalue::Future> made;
        {
            std::lock_guard<std::mutex> lock(future_mutex_);
            if (future_)
                return future_;
            made = future_ = c10::make_intrusive<c10::ivalue::Future>(type_of(outputs_));
            if (!over_)
                return made;
        }
        mark(*made); // no thread can have added a callback yet
        return made;
    }

    uint64_t getSequencenumber() const override
    {
        return sequence_;
    }

  private:
    void settle(const std::exception_ptr &error)
    {
        bool told;
        {
            std::lock_guard<std::mutex> lock(future_mutex_);
            over_ = true;
            error_ = error;
            told = static_cast<bool>(future_);
        }
        finish(error);
        if (told) // so it does not run in the caller's thread
            completer_->post([self = c10::intrusive_ptr<CollectiveWork>::reclaim_copy(this)] {
                at::ThreadLocalStateGuard guard(self->caller());
                self->mark(*self->future_);
            });
    }

    void mark(c10::ivalue::Future &future) const
    {
        if (error_)
            future.setError(error_);
        else
            future.markCompleted(value_of(outputs_));
    }

    const std::shared_ptr<Completer> completer_;
    const std::vector<at::Tensor> inputs_;
    const std::vector<std::vector<at::Tensor>> outputs_;
    const uint64_t sequence_;
    std::mutex future_mutex_; // guards the following, which no longer change once it is over and has a future
    bool over_ = false;
    std::exception_ptr error_;
    c10::intrusive_ptr<c10::ivalue::Future> future_;
    std::optional<at::ThreadLocalState> caller_;
};

class TransferWork : public c10d::Work {
  public:
    TransferWork(GroupPointer group, int rank, c10d::OpType type, const char *title, std::shared_ptr<Flight> flight,
                 uint64_t sequence)
        : Work(rank, type, title, std::vector<at::Tensor>{flight->tensor()}), group_(std::move(group)),
          flight_(std::move(flight)), sequence_(sequence)
    {
    }

    // The transfer goes on without its Work, unless a wait for it failed: then it must not arrive
    // later.
    ~TransferWork() override
    {
        if (group_->foreign() || flight_->over())
            return;
        if (in_vain_)
            group_->give_up(flight_, "it was waited for in vain, and given up");
        else
            group_->watch(flight_);
    }

    // Takes the result of the core's call that started the transfer.
    void started(int status, rt_team_transfer *transfer, int32_t source, const rt_detail &detail)
    {
        if (flight_->started(status, transfer, source, detail))
            group_->follow(flight_);
        else
            ended();
    }

    bool isCompleted() override
    {
        group_->refuse_fork();
        return (flight_->over() || flight_->look(0)) && ended();
    }

    bool isSuccess() const override
    {
        return const_cast<TransferWork *>(this)->isCompleted() && !flight_->error();
    }

    std::exception_ptr exception() const override
    {
        return flight_->over() ? flight_->error() : nullptr;
    }
    int sourceRank() const override
    {
        return flight_->over() ? flight_->source() : -1;
    }
    std::vector<at::Tensor> result() override
    {
        return {flight_->tensor()};
    }
    uint64_t getSequencenumber() const override
    {
        return sequence_;
    }

    bool wait(Milliseconds timeout) override
    {
        group_->refuse_fork();
        Completer::may_wait();
        if (!flight_->over())
            wait_for(timeout == kNoTimeout ? group_->timeout_ms.load() : timeout.count());
        ended();
        flight_->await_future();
        if (flight_->error())
            std::rethrow_exception(flight_->error());
        return true;
    }

    void abort() override
    {
        TORCH_CHECK(false, "rdmatensor: a single send or receive cannot be aborted: abort the group");
    }

    c10::intrusive_ptr<c10::ivalue::Future> getFuture() override
    {
        group_->refuse_fork();
        Completer::may_wait();
        auto future = flight_->future();
        if (!flight_->over())
            group_->watch(flight_);
        return future;
    }

    // Ensures that the transfer does not continue when this Work goes.
    void give_up()
    {
        group_->give_up(flight_, "it was given up");
    }

  private:
    // Reports the end to profilers, once, from the thread that finds it.
    bool ended()
    {
        if (!ended_.exchange(true)) {
            group_->forget(flight_);
            finish(flight_->error());
        }
        return true;
    }

    void wait_for(int64_t limit)
    {
        const auto end = Clock::now() + Milliseconds(limit);
        in_vain_ = true;
        group_->waiters.fetch_add(1);
        std::exception_ptr error;
        try {
            wait_until(end, limit);
            in_vain_ = false;
        } catch (...) {
            error = std::current_exception();
        }
        group_->waiters.fetch_sub(1);
        if (error)
            std::rethrow_exception(error);
    }

    void wait_until(Clock::time_point end, int64_t limit)
    {
        for (;;) {
            const int64_t left = std::chrono::duration_cast<std::chrono::nanoseconds>(end - Clock::now()).count();
            if (flight_->look(std::max<int64_t>(left, 0)))
                return;
            if (Clock::now() >= end) {
                rt_detail detail = {};
                snprintf(detail.text, sizeof detail.text,
                         "Timed out waiting %lldms for %s operation to complete: rank %d has not come",
                         static_cast<long long>(limit), flight_->sends ? "send" : "recv", flight_->peer);
                raise(flight_->sends ? "send" : "recv", RT_E_DEADLINE, detail);
            }
            if (interrupted() != 0) {
                raise_aside();
                raise("wait", RT_E_INTERRUPTED, rt_detail{});
            }
        }
    }

    const GroupPointer group_;
    const std::shared_ptr<Flight> flight_;
    const uint64_t sequence_;
    std::atomic<bool> in_vain_{false}, ended_{false};
};

} // namespace rdmatensor
