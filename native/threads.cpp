#include "threads.h"

#include <chrono>

#if defined(__linux__)
#include <sched.h>
#endif
#include <unistd.h>

namespace bidiffsr {

namespace {
// How long a worker looks for the next job before it sleeps: the layers of a step follow each other
// within microseconds, and waking a thread takes longer than that.
constexpr std::chrono::microseconds kPatience{30};

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}
}  // namespace

int available_cpus() {
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set);
#endif
  const unsigned count = std::thread::hardware_concurrency();
  return count ? static_cast<int>(count) : 1;
}

ThreadPool::ThreadPool(int threads) : owner_(getpid()) {
  if (threads <= 0) threads = available_cpus();
  workers_.reserve(static_cast<std::size_t>(threads - 1));
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { work(i); });
}

ThreadPool::~ThreadPool() {
  if (getpid() != owner_) {
    for (auto& worker : workers_) worker.detach();
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    job_.fetch_add(1);
  }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::drain(const Task& task, int tasks, int worker) {
  for (int i = next_.fetch_add(1); i < tasks; i = next_.fetch_add(1)) task(i, worker);
}

void ThreadPool::run(int tasks, const Task& task) {
  const std::unique_lock mine(taken_, std::try_to_lock);
  if (!mine || workers_.empty() || tasks < 2 || getpid() != owner_) {
    for (int i = 0; i < tasks; ++i) task(i, 0);
    return;
  }
  {
    const std::lock_guard lock(mutex_);
    task_ = &task;
    tasks_ = tasks;
    next_ = 0;
    job_.fetch_add(1);
  }
  wake_.notify_all();
  drain(task, tasks, 0);
  // Workers that come late find no task; those inside are waited for.
  std::unique_lock lock(mutex_);
  task_ = nullptr;
  idle_.wait(lock, [this] { return active_ == 0; });
}

void ThreadPool::work(int worker) {
  unsigned seen = 0;
  for (;;) {
    const Task* task = nullptr;
    int tasks = 0;
    const auto until = std::chrono::steady_clock::now() + kPatience;
    while (job_.load(std::memory_order_relaxed) == seen &&
           std::chrono::steady_clock::now() < until)
      pause_briefly();
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return job_ != seen; });
      seen = job_;
      if (stop_) return;
      if (!task_) continue;
      task = task_;
      tasks = tasks_;
      ++active_;
    }
    drain(*task, tasks, worker);
    {
      const std::lock_guard lock(mutex_);
      --active_;
    }
    idle_.notify_one();
  }
}

}  // namespace bidiffsr
