// flight.h: a send or receive under way, separate from its Work: it ends whether or not the Work is
// kept.
//
// The thread that finds the transfer over settles it: it puts a receive's values into their place
// and completes the future. Nothing is waited for, and no user code runs, under the flight's lock.
#pragma once

#include <ATen/ThreadLocalState.h>
#include <ATen/core/ivalue.h>

#include <atomic>

#include "completer.h"
#include "errors.h"
#include "rdmatensor_team.h"
#include "tensors.h"

namespace rdmatensor {

// Excludes the Python dispatch modes of the user's thread in code that our threads run: those modes
// are Python code, and could call us.
struct NoPythonModes {
    c10::impl::ExcludeDispatchKeyGuard guard{
        c10::DispatchKeySet({c10::DispatchKey::Python, c10::DispatchKey::PythonTLSSnapshot})};
};

class Flight : public std::enable_shared_from_this<Flight> {
  public:
    const bool sends;
    const int peer;                   // -1: from any rank
    std::atomic<bool> watched{false}; // no other thread looks at it: the group's driver does

    Flight(const rt_team_api *api, std::shared_ptr<Completer> completer, bool sends, int peer, Target target, at::Tensor source)
        : sends(sends), peer(peer), api_(api), completer_(std::move(completer)), target_(std::move(target)),
          read_from_(std::move(source))
    {
    }

    // Records the result of rt_team_send or rt_team_receive. Returns whether the transfer is still
    // under way.
    bool started(int status, rt_team_transfer *transfer, int32_t source, const rt_detail &detail)
    {
        transfer_ = transfer;
        source_ = source;
        if (status == RT_E_AGAIN)
            return true;
        state_ = SETTLING;
        settle(status, detail);
        return false;
    }

    bool over() const
    {
        return state_.load(std::memory_order_acquire) == OVER;
    }

    // Drives the transfer for at most that long. Returns whether it is over.
    bool look(int64_t nanoseconds)
    {
        rt_detail detail = {};
        int32_t source = -1;
        {
            std::unique_lock<std::mutex> lock(mutex_);
            if (state_ == SETTLING && nanoseconds > 0)
                changed_.wait_for(lock, std::chrono::nanoseconds(std::min(nanoseconds, SLICE)), [this] { return over(); });
            if (state_ != GOING)
                return over();
            inside_++;
        }
        const int status = api_->transfer_wait(transfer_, nanoseconds, &source, &detail);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            inside_--;
            changed_.notify_all();
            if (state_ != GOING || status == RT_E_AGAIN)
                return over();
            state_ = SETTLING;
            source_ = source;
        }
        settle(status, detail);
        return true;
    }

    // Afterwards its memory is not touched any more; a transfer that was not over fails with this
    // reason.
    void give_up(const char *why)
    {
        rt_detail detail = {};
        snprintf(detail.text, sizeof detail.text, "%s", why);
        {
            std::unique_lock<std::mutex> lock(mutex_);
            if (state_ != GOING)
                return;
            state_ = SETTLING;
        }
        settle(RT_E_CLOSED, detail);
    }

    // The next three are valid once it is over.
    const std::exception_ptr &error() const
    {
        return error_;
    }
    int source() const
    {
        return source_;
    }
    const at::Tensor &tensor() const
    {
        return target_.tensor;
    }

    c10::intrusive_ptr<c10::ivalue::Future> future()
    {
        c10::intrusive_ptr<c10::ivalue::Future> made;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            if (future_)
                return future_;
            made = future_ = c10::make_intrusive<c10::ivalue::Future>(c10::ListType::create(c10::TensorType::get()));
            if (!over()) {
                caller_ = at::ThreadLocalState();
                return made;
            }
        }
        mark(*made); // no thread can have added a callback yet
        return made;
    }

    // Returns when the future, if there is one, has its value; its callbacks may still run.
    void await_future()
    {
        c10::intrusive_ptr<c10::ivalue::Future> future;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            future = future_;
        }
        if (future)
            future->wait();
    }

  private:
    enum State { GOING, SETTLING, OVER };
    static constexpr int64_t SLICE = 50000000;

    // Called by the one thread that made the state SETTLING.
    void settle(int status, const rt_detail &detail)
    {
        let_go();
        try {
            if (status != RT_OK)
                raise(sends ? "send" : "recv", status, detail);
            NoPythonModes none;
            if (!sends)
                target_.put();
        } catch (...) {
            error_ = std::current_exception();
        }
        std::lock_guard<std::mutex> lock(mutex_);
        state_.store(OVER, std::memory_order_release);
        changed_.notify_all();
        if (future_)
            completer_->post([self = shared_from_this(), future = future_] {
                at::ThreadLocalStateGuard guard(*self->caller_);
                self->mark(*future);
            });
    }

    // Waits until no thread is inside; each stays for a slice at most.
    void let_go()
    {
        {
            std::unique_lock<std::mutex> lock(mutex_);
            changed_.wait(lock, [this] { return inside_ == 0; });
        }
        if (transfer_ != nullptr)
            api_->transfer_drop(transfer_);
        transfer_ = nullptr;
    }

    void mark(c10::ivalue::Future &future) const
    {
        if (error_)
            future.setError(error_);
        else
            future.markCompleted(c10::IValue(std::vector<at::Tensor>{target_.tensor}));
    }

    const rt_team_api *api_;
    const std::shared_ptr<Completer> completer_;
    const Target target_;
    const at::Tensor read_from_; // the memory of a send that the core reads; kept alive here
    rt_team_transfer *transfer_ = nullptr;
    std::mutex mutex_; // guards the state, the count of threads inside, and the future
    std::condition_variable changed_;
    std::atomic<State> state_{GOING};
    int inside_ = 0; // threads that are in the core with this transfer
    int32_t source_ = -1;
    std::exception_ptr error_;
    c10::intrusive_ptr<c10::ivalue::Future> future_;
    std::optional<at::ThreadLocalState> caller_; // the thread state in which callbacks run
};

} // namespace rdmatensor
