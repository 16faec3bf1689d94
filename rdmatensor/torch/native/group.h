// group.h: a process group's team as C++ sees it: its calls, the threads that carry asynchronous
// operations, its end.
//
// work.h      the result of a call                   reduce.h     reductions the C core leaves to torch
// flight.h    a send or receive under way            completer.h  the threads that run callbacks
// tensors.h   tensors as contiguous memory           overlap.h    which tensors share memory
// errors.h    the exceptions                         notes.h      records for profilers
// life.h      a group's life, and its queue          calls.h      the calls that operations consist of
// backend.cpp             the c10d operations, and the Python module
// The other headers are links into csrc.
//
// Compiled against the installed torch on first use: rdmatensor/torch/build.py. The C core is
// reached through the table of rdmatensor_team.h, so nothing is linked.
//
// There are three kinds of threads. The worker makes queued collective calls, one at a time. The
// driver advances sends and receives that no thread waits for. Neither runs user code, nor frees a
// tensor: that may run a destructor. The completer does both.
#pragma once

#include <pthread.h>

#include <pybind11/chrono.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/utils/pybind.h>

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <functional>
#include <thread>

#include "completer.h"
#include "flight.h"
#include "rdmatensor_team.h"

namespace rdmatensor {

using Milliseconds = std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

// The number of forks between the process that loaded this code and the calling process.
inline unsigned forks()
{
    static std::atomic<unsigned> count{0};
    static const int watched = pthread_atfork(nullptr, nullptr, [] { count++; });
    (void)watched;
    return count;
}

using FlightPointer = std::shared_ptr<Flight>;

// Shared by the backend and all its works, so that the team lives as long as any of them.
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

    // The deleter of GroupPointer. In a child made by fork a group is left as it is: the threads
    // that its end would join do not exist there, and threads of the parent may have held its locks
    // or waited on its condition variables, whose destruction would then block.
    static void drop(Group *group)
    {
        if (!group->foreign())
            delete group;
    }

    // Whether this process is a child of the one that made the group. Checked before any lock is
    // taken.
    bool foreign() const
    {
        return forks() != forks_;
    }
    void refuse_fork() const
    {
        TORCH_CHECK(!foreign(), "rdmatensor: this process is a child made by fork: the process group is its parent's");
    }

    rt_team *team() const
    {
        return team_;
    }
    const rt_team_api *api() const
    {
        return api_;
    }
    const std::shared_ptr<Completer> &completer() const
    {
        return completer_;
    }

    // Makes one collective call at a time, in the order of the calls. The call runs in this thread
    // when no call is queued or running before it and the caller waits for it anyhow; returns
    // whether it ran.
    bool run_here(bool waited, const std::function<void()> &call)
    {
        refuse_fork();
        Completer::may_wait();
        if (!waited)
            return false;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            check_open();
            // Only a signal handler can reach this: its thread waits in a call of this group, and
            // this call would wait for that one.
            TORCH_CHECK(!running_ || runner_ != std::this_thread::get_id(),
                        "rdmatensor: a signal's handler cannot call the group in whose call it interrupted this thread");
            if (!queue_.empty() || running_)
                return false;
            running_ = true;
            runner_ = std::this_thread::get_id();
        }
        Done done{*this};
        call();
        return true;
    }

    // Takes the call, and the work that outlives it.
    void enqueue(std::function<void()> call, c10::intrusive_ptr<c10d::Work> work)
    {
        refuse_fork();
        std::vector<c10::intrusive_ptr<c10d::Work>> spent; // freed here, where user code may run
        std::lock_guard<std::mutex> lock(mutex_);
        check_open();
        queue_.push_back({std::move(call), std::move(work)});
        spent.swap(spent_);
        if (!worker_.joinable())
            worker_ = std::thread([this] { work_on(); });
        changed_.notify_all();
    }

    // Registers a send or receive under way: the group keeps it until it is over.
    void follow(const FlightPointer &flight)
    {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            going_.push_back(flight);
        }
        poke();
    }

    // Forgets a flight that its Work has found over.
    void forget(const FlightPointer &flight)
    {
        std::lock_guard<std::mutex> lock(mutex_);
        going_.remove(flight);
        changed_.notify_all();
    }

    // Makes the driver look at the flight until it is over, since no other thread does.
    void watch(const FlightPointer &flight)
    {
        flight->watched = true;
        watching_ = true;
        pokes_.fetch_add(1);
        poke();
    }

    void give_up(const FlightPointer &flight, const char *why)
    {
        flight->give_up(why);
        forget(flight);
    }

    // Ends everything. Unless `now` is set, calls under way and sends get a while to finish.
    // Operations that are left then fail.
    void end(const char *why, bool now)
    {
        if (foreign() || closed_) // a forked child has none of the threads
            return;
        std::optional<pybind11::gil_scoped_release> free; // callbacks, and the end of a thread, may need Python
        if (Py_IsInitialized() && PyGILState_Check())
            free.emplace();
        Completer::may_wait();
        std::unique_lock<std::mutex> lock(mutex_);
        if (closed_)
            return;
        if (!now && failure() == RT_OK)
            finish_queued(lock);
        closed_ = true;
        const bool busy = running_ || !queue_.empty();
        lock.unlock();
        if (now || busy)
            api_->abort(team_, why);
        changed_.notify_all();
        poked_.notify_all();
        join(worker_);
        join(driver_);
        end_flights(why);
        completer_->finish(END_LIMIT);
    }

    int failure() const
    {
        return api_->failure(team_, nullptr);
    }
    void check_open() const
    {
        refuse_fork();
        TORCH_CHECK(!closed_, "rdmatensor: this process group was destroyed");
    }
    // Runs the end of the member, its Python object. Does nothing while Python goes down, which has
    // ended all members before.
    void leave()
    {
        if (!Py_IsInitialized() || foreign())
            return;
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
    static constexpr Milliseconds END_LIMIT{10000}; // for operations under way when the group ends
    static constexpr size_t SPENT_MAX = 64;

    struct Queued {
        std::function<void()> call;
        c10::intrusive_ptr<c10d::Work> work;
    };

    struct Done {
        Group &group;
        ~Done()
        {
            std::lock_guard<std::mutex> lock(group.mutex_);
            group.running_ = false;
            group.changed_.notify_all();
        }
    };

    // Works that are over are freed by the next caller, or in the completer when no call comes
    // soon.
    void free_spent(std::unique_lock<std::mutex> &lock)
    {
        if (spent_.size() < SPENT_MAX && !closed_) {
            const bool called = changed_.wait_for(lock, Milliseconds(1), [this] { return closed_ || !queue_.empty(); });
            if (called || spent_.empty())
                return;
        }
        auto spent = std::make_shared<std::vector<c10::intrusive_ptr<c10d::Work>>>(std::move(spent_));
        spent_.clear();
        lock.unlock();
        completer_->post([spent = std::move(spent)]() mutable { spent.reset(); });
        lock.lock();
    }

    void work_on()
    {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            if (!spent_.empty() && (queue_.empty() || spent_.size() >= SPENT_MAX))
                free_spent(lock);
            if (queue_.empty() && !closed_ && !spent_.empty())
                continue;
            changed_.wait(lock, [this]() -> bool { return closed_ || (!queue_.empty() && !running_); });
            if (queue_.empty()) {
                if (!spent_.empty())
                    free_spent(lock);
                return;
            }
            if (running_) { // closing, and another thread's call is not over yet
                changed_.wait(lock, [this] { return !running_; });
                continue;
            }
            Queued next = std::move(queue_.front());
            queue_.pop_front();
            running_ = true;
            runner_ = std::this_thread::get_id();
            lock.unlock();
            next.call();
            next.call = nullptr; // the work holds its tensors as well
            lock.lock();
            spent_.push_back(std::move(next.work));
            running_ = false;
            changed_.notify_all();
        }
    }

    // Called before the end: waits for queued calls, and for sends that the peers have not taken
    // yet. mutex_ held.
    void finish_queued(std::unique_lock<std::mutex> &lock)
    {
        for (const auto &flight : going_)
            if (flight->sends) {
                flight->watched = true;
                watching_ = true;
            }
        if (watching_)
            wake_driver();
        changed_.wait_for(lock, END_LIMIT, [this] {
            const bool sending = std::any_of(going_.begin(), going_.end(), [](const auto &flight) { return flight->sends; });
            return queue_.empty() && !running_ && !sending;
        });
    }

    void end_flights(const char *why)
    {
        std::list<FlightPointer> left;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            left.swap(going_);
        }
        for (const auto &flight : left) {
            if (flight->sends && flight->watched && !flight->over())
                TORCH_WARN("rdmatensor: a send to rank ", std::to_string(flight->peer), " was not received before ", why);
            flight->give_up(why);
        }
    }

    // Makes sure that some thread drives sends and receives, even if their starter does not.
    void poke()
    {
        pokes_.fetch_add(1);
        if (!asleep_.load())
            return;
        std::lock_guard<std::mutex> lock(mutex_);
        if (!closed_)
            wake_driver();
    }

    // mutex_ held.
    void wake_driver()
    {
        pokes_.fetch_add(1);
        if (!driver_.joinable())
            driver_ = std::thread([this] { drive(); });
        poked_.notify_all();
    }

    // Looks at the flights that no other thread looks at. Returns whether any are left.
    bool look_at_watched()
    {
        std::list<FlightPointer> looked, over;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            watching_ = false;
            for (const auto &flight : going_)
                if (flight->watched)
                    looked.push_back(flight);
        }
        for (const auto &flight : looked)
            flight->look(0);
        {
            std::lock_guard<std::mutex> lock(mutex_);
            for (auto flight = going_.begin(); flight != going_.end();) {
                auto next = std::next(flight);
                if ((*flight)->over())
                    over.splice(over.end(), going_, flight);
                flight = next;
            }
            if (std::any_of(going_.begin(), going_.end(), [](const auto &flight) { return flight->watched.load(); }))
                watching_ = true;
            if (!over.empty())
                changed_.notify_all();
        }
        if (!looked.empty() || !over.empty())
            hand_over(std::move(looked), std::move(over));
        return watching_;
    }

    // Drops the driver's references in the completer: with the last reference to a flight, tensors
    // may go.
    void hand_over(std::list<FlightPointer> looked, std::list<FlightPointer> over)
    {
        looked.remove_if([](const auto &flight) { return !flight->over(); });
        if (looked.empty() && over.empty())
            return;
        auto all = std::make_shared<std::list<FlightPointer>>(std::move(looked));
        all->splice(all->end(), over);
        completer_->post([all = std::move(all)]() mutable { all.reset(); });
    }

    // Drives sends and receives that no thread waits for. While there is traffic it looks every
    // millisecond, so that starting an operation costs no wake-up; it falls asleep after a while
    // without traffic.
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
        if (thread.joinable())
            thread.join();
    }

    const unsigned forks_ = forks(); // forks() in the process that made the group
    pybind11::object member_;
    rt_team *team_;
    const rt_team_api *api_;
    const std::shared_ptr<Completer> completer_ = std::make_shared<Completer>();
    std::mutex mutex_;
    std::condition_variable changed_, poked_;
    std::deque<Queued> queue_;
    std::vector<c10::intrusive_ptr<c10d::Work>> spent_; // works that are over and not freed yet
    std::list<FlightPointer> going_;
    std::atomic<bool> watching_{false};
    bool running_ = false;
    std::thread::id runner_;
    std::atomic<bool> closed_{false};
    std::thread worker_, driver_;
    std::atomic<uint64_t> pokes_{0};
    std::atomic<bool> asleep_{true};
};

using GroupPointer = std::shared_ptr<Group>;

} // namespace rdmatensor
