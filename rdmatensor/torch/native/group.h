// group.h: a process group's team as C++ sees it: its calls, the threads that carry what is asynchronous, its end.
//
// work.h      what a call gives back                  reduce.h     reductions the C core leaves to torch
// tensors.h   tensors as contiguous memory            backend.cpp  the c10d operations, and the Python module
//
// Compiled against the installed torch on first use: rdmatensor/torch/build.py. The C core is reached through the table of
// rdmatensor_team.h, so nothing is linked.
//
// Numbers go into messages as std::to_string: a compiler that brings a C++ library of its own beside torch's makes streams
// that crash when a number is written to them.
#pragma once

#include <pybind11/chrono.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/utils/pybind.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <thread>

#include "rdmatensor_team.h"

namespace rdmatensor {

using Milliseconds = std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

// Asked while a call waits: whether Python has a signal to handle. The error is then set in Python.
inline int interrupted()
{
    if (!Py_IsInitialized())
        return 1;
    pybind11::gil_scoped_acquire gil;
    return PyErr_CheckSignals() != 0;
}

[[noreturn]] inline void raise(const char *what, int status, const rt_detail &detail)
{
    if (status == RT_E_INTERRUPTED) {
        pybind11::gil_scoped_acquire gil;
        if (PyErr_Occurred())
            throw pybind11::error_already_set();
    }
    std::string text = std::string("rdmatensor ") + what + ": " + detail.text;
    if (status == RT_E_INVALID || status == RT_E_PROTOCOL || status == RT_E_UNSUPPORTED)
        TORCH_CHECK_VALUE(false, text);
    C10_THROW_ERROR(DistBackendError, text);
}

// Shared by the backend and every work of it, so that the team lives as long as any of them.
class Group {
  public:
    Group(pybind11::object member, uintptr_t team, uintptr_t api, Milliseconds timeout)
        : timeout_ms(timeout.count()), member_(std::move(member)), team_(reinterpret_cast<rt_team *>(team)),
          api_(reinterpret_cast<const rt_team_api *>(api))
    {
        TORCH_CHECK(api_->version == RT_TEAM_API_VERSION,
                    "rdmatensor: the compiled backend is of another version: remove its cache");
    }

    ~Group()
    {
        end("the process group was destroyed", false);
        if (Py_IsInitialized()) {
            pybind11::gil_scoped_acquire gil;
            member_ = pybind11::object();
        } else {
            member_.release();
        }
    }

    rt_team *team() const
    {
        return team_;
    }
    const rt_team_api *api() const
    {
        return api_;
    }

    // One collective call at a time, in the order of the calls. Runs here when nothing is before it and the caller waits anyhow.
    bool run_here(bool waited, const std::function<void()> &call)
    {
        if (!waited)
            return false;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            check_open();
            if (!queue_.empty() || running_)
                return false;
            running_ = true;
        }
        Done done{*this};
        call();
        return true;
    }

    void enqueue(std::function<void()> call)
    {
        std::lock_guard<std::mutex> lock(mutex_);
        check_open();
        queue_.push_back(std::move(call));
        if (!worker_.joinable())
            worker_ = std::thread([this] { work(); });
        changed_.notify_all();
    }

    // A send or receive goes on: somebody must drive it, if whoever started it does not.
    void poke()
    {
        pokes_.fetch_add(1);
        if (!asleep_.load())
            return;
        std::lock_guard<std::mutex> lock(mutex_);
        if (closed_)
            return;
        if (!driver_.joinable())
            driver_ = std::thread([this] { drive(); });
        poked_.notify_all();
    }

    // Called after each round of the driver; false: no longer.
    void watch(std::function<bool()> look)
    {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            watched_.push_back(std::move(look));
            watching_ = true;
        }
        pokes_.fetch_add(1);
        poke();
    }

    // Ends everything. Calls under way get a while to finish, or are aborted at once.
    void end(const char *why, bool now)
    {
        std::unique_lock<std::mutex> lock(mutex_);
        if (closed_)
            return;
        if (!now && failure() == RT_OK)
            changed_.wait_for(lock, std::chrono::seconds(10), [this] { return queue_.empty() && !running_; });
        closed_ = true;
        bool busy = running_ || !queue_.empty();
        lock.unlock();
        if (now || busy)
            api_->abort(team_, why);
        changed_.notify_all();
        poked_.notify_all();
        join(worker_);
        join(driver_);
    }

    int failure() const
    {
        return api_->failure(team_, nullptr);
    }
    void check_open() const
    {
        TORCH_CHECK(!closed_, "rdmatensor: this process group was destroyed");
    }
    // For members of the group only: what its Python object does at the end.
    void leave()
    {
        pybind11::gil_scoped_acquire gil;
        member_.attr("end")();
    }
    pybind11::object member() const
    {
        return member_;
    }

    std::atomic<int64_t> timeout_ms;
    std::atomic<int> waiters{0};
    std::atomic<uint64_t> tags{0}; // of internal sends and receives

  private:
    struct Done {
        Group &group;
        ~Done()
        {
            std::lock_guard<std::mutex> lock(group.mutex_);
            group.running_ = false;
            group.changed_.notify_all();
        }
    };

    void work()
    {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            changed_.wait(lock, [this]() -> bool { return closed_ || (!queue_.empty() && !running_); });
            if (queue_.empty())
                return;
            if (running_) { // closing, and a call of somebody else is not over yet
                changed_.wait(lock, [this] { return !running_; });
                continue;
            }
            auto call = std::move(queue_.front());
            queue_.pop_front();
            running_ = true;
            lock.unlock();
            call();
            call = nullptr; // with its tensors, before anybody hears of the end
            lock.lock();
            running_ = false;
            changed_.notify_all();
        }
    }

    bool look_at_watched()
    {
        std::vector<std::function<bool()>> looks;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            looks.swap(watched_);
        }
        std::vector<std::function<bool()>> rest;
        for (auto &look : looks)
            if (look())
                rest.push_back(std::move(look));
        std::lock_guard<std::mutex> lock(mutex_);
        for (auto &look : rest)
            watched_.push_back(std::move(look));
        watching_ = !watched_.empty();
        return watching_;
    }

    // Drives sends and receives that nobody waits for. While there is traffic it looks every millisecond, so that starting one
    // costs no wake-up; it falls asleep after a while without any.
    void drive()
    {
        auto last = Clock::now();
        uint64_t seen = 0;
        for (;;) {
            {
                std::unique_lock<std::mutex> lock(mutex_);
                if (Clock::now() - last > Milliseconds(100)) {
                    asleep_ = true;
                    poked_.wait(lock, [&]() -> bool { return closed_ || pokes_.load() != seen; });
                    asleep_ = false;
                } else {
                    poked_.wait_for(lock, Milliseconds(1), [&]() -> bool { return closed_; });
                }
                if (closed_)
                    return;
            }
            if (pokes_.load() != seen) {
                seen = pokes_.load();
                last = Clock::now();
            }
            if (waiters.load() == 0 && api_->progress(team_, watching_ ? 1000000 : 5000000) > 0)
                last = Clock::now();
            if (watching_ && look_at_watched())
                last = Clock::now();
        }
    }

    static void join(std::thread &thread)
    {
        if (!thread.joinable())
            return;
        if (thread.get_id() == std::this_thread::get_id()) {
            thread.detach();
            return;
        }
        if (Py_IsInitialized() && PyGILState_Check()) { // it may need Python to finish
            pybind11::gil_scoped_release free;
            thread.join();
        } else {
            thread.join();
        }
    }

    pybind11::object member_;
    rt_team *team_;
    const rt_team_api *api_;
    std::mutex mutex_;
    std::condition_variable changed_, poked_;
    std::deque<std::function<void()>> queue_;
    std::vector<std::function<bool()>> watched_;
    std::atomic<bool> watching_{false};
    bool running_ = false;
    std::atomic<bool> closed_{false};
    std::thread worker_, driver_;
    std::atomic<uint64_t> pokes_{0};
    std::atomic<bool> asleep_{true};
};

using GroupPointer = std::shared_ptr<Group>;

} // namespace rdmatensor
