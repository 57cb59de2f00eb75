// A few threads that share the tasks of one caller.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace bidiffsr {

class ThreadPool {
 public:
  // (task, worker): worker < count() is the same for all tasks that run on one thread.
  using Task = std::function<void(std::int64_t task, int worker)>;

  // `threads` including the caller's own; 0 for one per CPU that this process may use.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int count() const { return static_cast<int>(shared_->workers.size()) + 1; }

  // Runs tasks 0 to `tasks` - 1 in any order and returns when all are done. A caller that finds the
  // pool taken by another runs its tasks alone. If a task throws, the others may be left out, and
  // the first exception comes out of here.
  void run(std::int64_t tasks, const Task& task);

 private:
  void work(int worker);
  void drain(const Task& task, std::int64_t tasks, int worker);

  // Apart, so that a forked child can leave it alone: what sleeps here sleeps in another process.
  struct Shared {
    std::mutex mutex;
    std::condition_variable wake;
    std::condition_variable idle;
    std::vector<std::thread> workers;
    std::exception_ptr failure;  // of the job under way
  };
  std::unique_ptr<Shared> shared_ = std::make_unique<Shared>();
  std::atomic<bool> taken_{false};  // by the caller whose job it is
  const Task* task_ = nullptr;
  std::int64_t tasks_ = 0;
  std::atomic<std::int64_t> next_{0};
  std::atomic<unsigned> job_{0};
  int active_ = 0;  // workers inside the job
  bool stop_ = false;
  int owner_;  // process that the workers live in: a forked child has none
};

// How many threads a caller may ask for: std::invalid_argument if not 0 to 1024, else the number.
int checked_threads(int threads);

// CPUs that this process may run on.
int available_cpus();

}  // namespace bidiffsr
