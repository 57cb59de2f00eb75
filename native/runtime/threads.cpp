#include "runtime/threads.h"

#include <chrono>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#if defined(__linux__)
#include <sched.h>
#endif
#include <unistd.h>

namespace bidiffsr {

namespace {
// How long a worker spins before it sleeps: the layers of a step follow each other
// within microseconds, and waking a thread takes longer than that.
constexpr std::chrono::microseconds kSpinTime{30};

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}
}  // namespace

int checked_threads(int threads) {
  constexpr int kMost = 1024;
  if (threads < 0 || threads > kMost)
    throw std::invalid_argument("threads: got " + std::to_string(threads) + ", expected 0 to " +
                                std::to_string(kMost));
  return threads;
}

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
  std::vector<std::thread>& workers = shared_->workers;
  workers.reserve(static_cast<std::size_t>(threads - 1));
  try {
    for (int i = 1; i < threads; ++i) workers.emplace_back([this, i] { work(i); });
  } catch (const std::system_error&) {
    // The system has no more threads for us: those there are will do.
  }
}

ThreadPool::~ThreadPool() {
  if (getpid() != owner_) {
    static_cast<void>(shared_.release());
    return;
  }
  {
    const std::lock_guard lock(shared_->mutex);
    stop_ = true;
    job_.fetch_add(1);
  }
  shared_->wake.notify_all();
  for (auto& worker : shared_->workers) worker.join();
}

void ThreadPool::drain(const Task& task, std::int64_t tasks, int worker) {
  try {
    for (std::int64_t i = next_.fetch_add(1); i < tasks; i = next_.fetch_add(1)) task(i, worker);
  } catch (...) {
    next_.store(tasks);
    const std::lock_guard lock(shared_->mutex);
    if (!shared_->failure) shared_->failure = std::current_exception();
  }
}

void ThreadPool::run(std::int64_t tasks, const Task& task) {
  const bool alone = shared_->workers.empty() || tasks < 2 || getpid() != owner_;
  if (alone || taken_.exchange(true, std::memory_order_acquire)) {
    for (std::int64_t i = 0; i < tasks; ++i) task(i, 0);
    return;
  }
  {
    const std::lock_guard lock(shared_->mutex);
    task_ = &task;
    tasks_ = tasks;
    next_ = 0;
    job_.fetch_add(1);
  }
  shared_->wake.notify_all();
  drain(task, tasks, 0);
  std::exception_ptr failure;
  {
    // Workers that come late find no task; those inside are waited for.
    std::unique_lock lock(shared_->mutex);
    task_ = nullptr;
    shared_->idle.wait(lock, [this] { return active_ == 0; });
    failure = std::exchange(shared_->failure, nullptr);
  }
  taken_.store(false, std::memory_order_release);
  if (failure) std::rethrow_exception(failure);
}

void ThreadPool::work(int worker) {
  unsigned seen = 0;
  for (;;) {
    const Task* task = nullptr;
    std::int64_t tasks = 0;
    const auto until = std::chrono::steady_clock::now() + kSpinTime;
    while (job_.load(std::memory_order_relaxed) == seen && std::chrono::steady_clock::now() < until)
      pause_briefly();
    {
      std::unique_lock lock(shared_->mutex);
      shared_->wake.wait(lock, [&] { return job_ != seen; });
      seen = job_;
      if (stop_) return;
      if (!task_) continue;
      task = task_;
      tasks = tasks_;
      ++active_;
    }
    drain(*task, tasks, worker);
    {
      const std::lock_guard lock(shared_->mutex);
      --active_;
    }
    shared_->idle.notify_one();
  }
}

}  // namespace bidiffsr
