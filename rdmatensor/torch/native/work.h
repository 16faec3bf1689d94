// work.h: what a call gives back: a collective call that is done or will be, or a send or receive.
#pragma once

#include <ATen/ThreadLocalState.h>

#include "group.h"
#include "tensors.h"

namespace rdmatensor {

// Outputs as Gloo's futures give them: nothing, the tensors of one list, or several lists.
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

class CollectiveWork : public c10d::Work {
  public:
    CollectiveWork(int rank, c10d::OpType type, const char *title, const std::optional<std::vector<at::Tensor>> &inputs,
                   std::vector<std::vector<at::Tensor>> outputs, uint64_t sequence)
        : Work(rank, type, title, inputs), outputs_(std::move(outputs)), sequence_(sequence)
    {
    }

    // Here or in the group's worker; nothing is thrown, the work keeps it.
    void execute(const std::function<void()> &call)
    {
        std::exception_ptr error;
        try {
            call();
        } catch (...) {
            error = std::current_exception();
        }
        c10::intrusive_ptr<c10::ivalue::Future> future;
        {
            std::lock_guard<std::mutex> lock(future_mutex_);
            over_ = true;
            error_ = error;
            future = future_;
        }
        finish(error);
        if (future)
            mark(*future);
    }

    std::vector<at::Tensor> result() override
    {
        TORCH_CHECK(isCompleted(), "rdmatensor: the work has no result before it is done");
        std::vector<at::Tensor> all;
        for (const auto &list : outputs_)
            all.insert(all.end(), list.begin(), list.end());
        return all;
    }

    c10::intrusive_ptr<c10::ivalue::Future> getFuture() override
    {
        std::lock_guard<std::mutex> lock(future_mutex_);
        if (!future_) {
            future_ = c10::make_intrusive<c10::ivalue::Future>(type_of(outputs_));
            if (over_)
                mark(*future_);
        }
        return future_;
    }

    uint64_t getSequencenumber() const override
    {
        return sequence_;
    }

  private:
    void mark(c10::ivalue::Future &future)
    {
        if (error_)
            future.setError(error_);
        else
            future.markCompleted(value_of(outputs_));
    }

    std::vector<std::vector<at::Tensor>> outputs_;
    uint64_t sequence_;
    std::mutex future_mutex_;
    bool over_ = false;
    std::exception_ptr error_;
    c10::intrusive_ptr<c10::ivalue::Future> future_;
};

class TransferWork : public c10d::Work {
  public:
    TransferWork(GroupPointer group, int rank, c10d::OpType type, const char *title, Target target, uint64_t sequence)
        : Work(rank, type, title, std::vector<at::Tensor>{target.tensor}), group_(std::move(group)), target_(std::move(target)),
          sequence_(sequence)
    {
    }

    ~TransferWork() override
    {
        if (transfer_ != nullptr)
            group_->api()->transfer_drop(transfer_);
    }

    // What a send reads from, when that is not the tensor itself.
    void keep(at::Tensor memory)
    {
        kept_ = std::move(memory);
    }

    // The transfer that goes on, or how it ended at once.
    void started(int status, rt_team_transfer *transfer, int32_t source, const rt_detail &detail)
    {
        transfer_ = transfer;
        source_ = source;
        if (status == RT_E_AGAIN)
            group_->poke();
        else
            settle(status, detail);
    }

    bool isCompleted() override
    {
        std::lock_guard<std::mutex> lock(transfer_mutex_);
        return over_ || look(0);
    }

    bool isSuccess() const override
    {
        return const_cast<TransferWork *>(this)->isCompleted() && !error_;
    }

    std::exception_ptr exception() const override
    {
        return error_;
    }
    int sourceRank() const override
    {
        return source_;
    }
    std::vector<at::Tensor> result() override
    {
        return {target_.tensor};
    }
    uint64_t getSequencenumber() const override
    {
        return sequence_;
    }

    bool wait(Milliseconds timeout) override
    {
        const int64_t limit = timeout == kNoTimeout ? group_->timeout_ms.load() : timeout.count();
        const auto end = Clock::now() + Milliseconds(limit);
        group_->waiters.fetch_add(1);
        std::exception_ptr error;
        try {
            wait_until(end, limit);
        } catch (...) {
            error = std::current_exception();
        }
        group_->waiters.fetch_sub(1);
        if (error)
            std::rethrow_exception(error);
        if (error_)
            std::rethrow_exception(error_);
        return true;
    }

    void abort() override
    {
        TORCH_CHECK(false, "rdmatensor: a single send or receive cannot be aborted: abort the group");
    }

    c10::intrusive_ptr<c10::ivalue::Future> getFuture() override
    {
        std::unique_lock<std::mutex> lock(transfer_mutex_);
        if (future_)
            return future_;
        future_ = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()));
        auto future = future_;
        if (over_) {
            mark();
            return future;
        }
        lock.unlock();
        auto self = c10::intrusive_ptr<TransferWork>::reclaim_copy(this);
        group_->watch([self] { return !self->isCompleted(); });
        return future;
    }

  private:
    // transfer_mutex_ held. Whether it is over.
    bool look(int64_t nanoseconds)
    {
        rt_detail detail = {};
        int status = group_->api()->transfer_wait(transfer_, nanoseconds, &source_, &detail);
        if (status == RT_E_AGAIN)
            return false;
        group_->api()->transfer_drop(transfer_);
        transfer_ = nullptr;
        settle(status, detail);
        return true;
    }

    void settle(int status, const rt_detail &detail)
    {
        try {
            if (status != RT_OK)
                raise(opType_ == c10d::OpType::SEND ? "send" : "recv", status, detail);
            if (opType_ != c10d::OpType::SEND)
                target_.put();
        } catch (...) {
            error_ = std::current_exception();
        }
        over_ = true;
        if (future_)
            mark();
        finish(error_);
    }

    void mark()
    {
        if (error_)
            future_->setError(error_);
        else
            future_->markCompleted(c10::IValue(std::vector<at::Tensor>{target_.tensor}));
    }

    void wait_until(Clock::time_point end, int64_t limit)
    {
        for (;;) {
            {
                std::lock_guard<std::mutex> lock(transfer_mutex_);
                const int64_t left = std::chrono::duration_cast<std::chrono::nanoseconds>(end - Clock::now()).count();
                if (over_ || look(std::max<int64_t>(left, 0)))
                    return;
            }
            if (Clock::now() >= end) {
                rt_detail detail = {};
                snprintf(detail.text, sizeof detail.text,
                         "Timed out waiting %lldms for %s operation to complete: rank %d has not come",
                         static_cast<long long>(limit), opType_ == c10d::OpType::SEND ? "send" : "recv", peer);
                raise(opType_ == c10d::OpType::SEND ? "send" : "recv", RT_E_DEADLINE, detail);
            }
            if (interrupted() != 0)
                raise("wait", RT_E_INTERRUPTED, rt_detail{});
        }
    }

  public:
    int peer = -1;

  private:
    GroupPointer group_;
    Target target_;
    at::Tensor kept_;
    uint64_t sequence_;
    std::mutex transfer_mutex_;
    rt_team_transfer *transfer_ = nullptr;
    int32_t source_ = -1;
    bool over_ = false;
    std::exception_ptr error_;
    c10::intrusive_ptr<c10::ivalue::Future> future_;
};

} // namespace rdmatensor
