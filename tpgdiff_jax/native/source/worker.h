// One thread that makes all calls of oneDNN in this process.
//
// oneDNN runs every call on all cores through OpenMP, whose team of threads belongs to the thread
// that calls.  XLA calls from many threads (its pool, one program per host device): each would
// bring up a team of its own, cores squared in all.  One caller means one team, and that plans,
// scratch memory and staged weights, which only this thread touches, need no locks.
#pragma once

#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace tpgdiff {

class Worker {
 public:
  // Never destroyed: XLA's threads may still call while the process ends.
  static Worker& Get() {
    static Worker* worker = new Worker();
    return *worker;
  }

  // Run `work` on the thread, wait for its end and pass on what it throws.
  void Run(const std::function<void()>& work) {
    Job job{&work};
    std::unique_lock<std::mutex> lock(mutex_);
    jobs_.push_back(&job);
    wake_.notify_one();
    job.ended.wait(lock, [&] { return job.done; });
    if (job.error) std::rethrow_exception(job.error);
  }

 private:
  struct Job {
    const std::function<void()>* work;
    bool done = false;
    std::exception_ptr error;
    std::condition_variable ended;
  };

  Worker() { std::thread([this] { Loop(); }).detach(); }

  void Loop() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      wake_.wait(lock, [&] { return !jobs_.empty(); });
      Job* job = jobs_.front();
      jobs_.pop_front();
      lock.unlock();
      try {
        (*job->work)();
      } catch (...) {
        job->error = std::current_exception();
      }
      lock.lock();
      job->done = true;
      job->ended.notify_one();  // under the lock: the job lives on its caller's stack
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Job*> jobs_;
};

}  // namespace tpgdiff
