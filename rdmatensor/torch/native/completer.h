// completer.h: the threads in which a group's futures are completed and abandoned memory is freed.
//
// A future's callbacks are user code: a callback may wait for another collective call, start one,
// or end the group. So none runs in a thread that makes the group's progress, nor under a lock.
// Tasks run in the order in which they were posted, one at a time. The next task starts early, in
// another thread, when the running task says that it may wait (`may_wait`) or has run for PATIENCE.
// So a callback that waits for a future whose callback waits for another one ends, however deep the
// chain is. Without tasks there is no thread.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include <c10/util/Exception.h>

namespace rdmatensor {

class Completer : public std::enable_shared_from_this<Completer> {
  public:
    using Task = std::function<void()>;

    // Called by any thread; waits for nothing.
    void post(Task task)
    {
        std::unique_lock<std::mutex> lock(mutex_);
        queue_.push_back(std::move(task));
        const bool served = ready_ > 0 || start_thread() || running_ > 0;
        Taken taken;
        if (!served) // the system could not start a thread
            taken = take();
        lock.unlock();
        changed_.notify_one();
        if (!served)
            run(taken);
    }

    // Must be called by a thread that may wait for anything of a group: if the thread runs a task,
    // the next task starts without waiting for its end.
    static void may_wait()
    {
        Turn *turn = current();
        if (turn == nullptr || turn->given_up)
            return;
        turn->given_up = true;
        Completer &completer = *turn->completer;
        std::lock_guard<std::mutex> lock(completer.mutex_);
        completer.give_up(turn->number);
    }

    // Whether the calling thread runs a task of this completer.
    bool is_here() const
    {
        return current() != nullptr && current()->completer.get() == this;
    }

    // Runs the remaining tasks and ends the threads. To be called once, without Python's lock.
    // Waits until `limit` for tasks that wait for something else, and for no task when a task calls
    // it. Threads that are still busy after that end with their task.
    void finish(std::chrono::milliseconds limit)
    {
        std::unique_lock<std::mutex> lock(mutex_);
        closing_ = true;
        changed_.notify_all();
        const bool over = !is_here() && changed_.wait_for(lock, limit, [this] { return running_ == 0 && queue_.empty(); });
        std::list<std::thread> threads = std::move(threads_);
        threads_.clear();
        finished_ = true;
        lock.unlock();
        for (auto &thread : threads) {
            if (over)
                thread.join();
            else
                thread.detach();
        }
    }

  private:
    using Clock = std::chrono::steady_clock;
    static constexpr std::chrono::milliseconds PATIENCE{2};
    static constexpr int READY_MAX = 2; // the most threads that wait for tasks; further ones end

    struct Taken {
        Task task;
        uint64_t number;
    };

    // The task that a thread is running.
    struct Turn {
        std::shared_ptr<Completer> completer;
        uint64_t number;
        bool given_up = false;
    };

    static Turn *&current()
    {
        static thread_local Turn *turn = nullptr;
        return turn;
    }

    // mutex_ held, here and in the next three.
    void give_up(uint64_t number)
    {
        if (turn_ != number)
            return;
        turn_ = 0;
        if (!queue_.empty() && ready_ == 0)
            start_thread();
        changed_.notify_all();
    }

    bool start_thread()
    {
        try {
            std::thread thread([self = shared_from_this()] { self->serve(); });
            if (finished_)
                thread.detach();
            else
                threads_.push_back(std::move(thread));
        } catch (const std::system_error &) {
            return false;
        }
        ready_++;
        return true;
    }

    Taken take()
    {
        Taken taken{std::move(queue_.front()), ++last_turn_};
        queue_.pop_front();
        turn_ = taken.number;
        since_ = Clock::now();
        running_++;
        return taken;
    }

    void leave()
    {
        ready_--;
        for (auto thread = threads_.begin(); thread != threads_.end(); ++thread)
            if (thread->get_id() == std::this_thread::get_id()) {
                thread->detach();
                threads_.erase(thread);
                return;
            }
    }

    // The objects that the task holds are freed within its turn, since that may run user code, too.
    void run(Taken &taken)
    {
        Turn turn{shared_from_this(), taken.number};
        Turn *outer = std::exchange(current(), &turn);
        try {
            taken.task();
        } catch (const std::exception &error) {
            TORCH_WARN("rdmatensor: a callback of a future failed: ", error.what());
        }
        taken.task = nullptr;
        current() = outer;
        std::lock_guard<std::mutex> lock(mutex_);
        running_--;
        give_up(turn.number);
        changed_.notify_all();
    }

    void serve()
    {
        std::unique_lock<std::mutex> lock(mutex_);
        for (;;) {
            if (queue_.empty()) {
                if (closing_)
                    break;
                if (ready_ > READY_MAX)
                    return leave();
                changed_.wait(lock);
            } else if (turn_ != 0 && Clock::now() < since_ + PATIENCE) {
                changed_.wait_until(lock, since_ + PATIENCE);
            } else {
                Taken taken = take();
                ready_--;
                if (!queue_.empty() && ready_ == 0)
                    start_thread();
                lock.unlock();
                run(taken);
                lock.lock();
                ready_++;
            }
        }
        ready_--;
    }

    std::mutex mutex_; // guards all of the following; only changed_ is waited for under it
    std::condition_variable changed_;
    std::deque<Task> queue_;
    std::list<std::thread> threads_;
    int ready_ = 0, running_ = 0;
    uint64_t turn_ = 0, last_turn_ = 0; // the task that the next one waits for; 0: none
    Clock::time_point since_;
    bool closing_ = false, finished_ = false;
};

} // namespace rdmatensor
