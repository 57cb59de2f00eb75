// The thread pool and the arena.
#include "runtime/threads.h"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <new>
#include <utility>

#include "check.h"
#include "runtime/arena.h"

namespace bidiffsr::tests {
namespace {

// How often each task ran, and whether two tasks shared a worker's number at the same time.
struct Counts {
  Counts(int tasks, int workers)
      : runs(static_cast<std::size_t>(tasks)), busy(static_cast<std::size_t>(workers)) {}
  void operator()(std::int64_t task, int worker) {
    if (worker < 0 || worker >= static_cast<int>(busy.size())) {
      clash = true;
      return;
    }
    if (busy[static_cast<std::size_t>(worker)].exchange(true)) clash = true;
    ++runs[static_cast<std::size_t>(task)];
    busy[static_cast<std::size_t>(worker)] = false;
  }
  bool once() const {
    return !clash &&
           std::all_of(runs.begin(), runs.end(), [](const auto& each) { return each == 1; });
  }
  std::vector<std::atomic<int>> runs;
  std::vector<std::atomic<bool>> busy;
  std::atomic<bool> clash{false};
};

bool runs_each_once(ThreadPool& pool, int tasks) {
  Counts counts(tasks, pool.count());
  pool.run(tasks, [&](std::int64_t task, int worker) { counts(task, worker); });
  return counts.once();
}

TEST(pool_runs_every_task_once) {
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    CHECK(pool.count() == threads);
    for (const int tasks : {0, 1, 2, 3, 7, 100, 1000})
      CHECK_THAT(runs_each_once(pool, tasks), text("threads", threads) + text("tasks", tasks));
  }
  CHECK(ThreadPool(0).count() == available_cpus());
}

TEST(pool_survives_many_small_jobs) {
  ThreadPool pool(3);
  std::atomic<int> sum{0};
  for (int i = 0; i < 5000; ++i)
    pool.run(2, [&](std::int64_t task, int) { sum += static_cast<int>(task) + 1; });
  CHECK(sum == 3 * 5000);
}

TEST(pool_takes_callers_that_come_together) {
  ThreadPool pool(3);
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i)
    callers.emplace_back([&] {
      for (int job = 0; job < 200; ++job) wrong += runs_each_once(pool, 1 + job % 9) ? 0 : 1;
    });
  for (auto& caller : callers) caller.join();
  CHECK(wrong == 0);
}

TEST(pool_takes_jobs_from_inside_a_task) {
  ThreadPool pool(3);
  std::atomic<int> wrong{0}, runs{0};
  pool.run(20, [&](std::int64_t, int) {
    wrong += runs_each_once(pool, 5) ? 0 : 1;
    ++runs;
  });
  CHECK(wrong == 0);
  CHECK(runs == 20);
}

TEST(pool_hands_on_what_tasks_throw) {
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 50; ++round) {
      bool caught = false;
      try {
        pool.run(20, [](std::int64_t task, int) {
          if (task % 7 == 3) throw std::bad_alloc();
        });
      } catch (const std::bad_alloc&) {
        caught = true;
      }
      CHECK(caught);
      std::atomic<int> done{0};
      pool.run(20, [&](std::int64_t, int) { ++done; });
      CHECK(done == 20);
    }
  }
}

TEST(pool_ends_at_any_moment) {
  for (int i = 0; i < 100; ++i) {
    ThreadPool pool(1 + i % 4);
    if (i % 3) CHECK(runs_each_once(pool, i % 7));
  }
}

// Exit status of a child that runs `body`; it is killed if it hangs.
template <class Body>
int in_child(const Body& body) {
  const pid_t child = fork();
  if (child == 0) {
    alarm(20);
    _exit(body() ? 0 : 1);
  }
  int status = -1;
  CHECK(waitpid(child, &status, 0) == child);
  return status;
}

TEST(pool_works_and_ends_in_a_forked_child) {
  auto pool = std::make_unique<ThreadPool>(3);
  CHECK(runs_each_once(*pool, 10));
  usleep(20000);  // until the workers sleep, as they mostly do
  CHECK(in_child([&] { return runs_each_once(*pool, 10); }) == 0);
  CHECK(in_child([&] {
          pool.reset();
          return true;
        }) == 0);
  CHECK(runs_each_once(*pool, 10));
}

// ---- arena -------------------------------------------------------------------------------------

struct Step {
  bool take;
  std::size_t value;  // bytes, or which of the blocks held
};

std::vector<Step> random_steps(Random& random) {
  std::vector<Step> steps;
  int held = 0;
  for (int i = 0; i < 200; ++i) {
    if (held && random.below(5) < 2) {
      steps.push_back({false, static_cast<std::size_t>(random.below(held--))});
    } else {
      steps.push_back({true, static_cast<std::size_t>(random.below(4) ? random.below(5000) : 0)});
      ++held;
    }
  }
  return steps;
}

struct Held {
  std::byte* at;
  std::size_t bytes;
};

// Offsets of all blocks; those held at one time must not overlap.
std::vector<std::ptrdiff_t> follow(Arena& arena, const std::vector<Step>& steps) {
  std::vector<std::ptrdiff_t> offsets;
  std::vector<Held> held;
  std::byte* base = nullptr;
  for (const Step& step : steps) {
    if (!step.take) {
      arena.release(held[step.value].at);
      held.erase(held.begin() + static_cast<std::ptrdiff_t>(step.value));
      continue;
    }
    const Held block{arena.allocate(step.value), step.value};
    if (!base) base = block.at;
    CHECK(reinterpret_cast<std::uintptr_t>(block.at) % Arena::kAlignment == 0);
    for (const Held& other : held)
      CHECK(block.at + block.bytes <= other.at || other.at + other.bytes <= block.at);
    offsets.push_back(block.at - base);
    held.push_back(block);
  }
  for (const Held& block : held) arena.release(block.at);
  return offsets;
}

TEST(arena_does_as_planned) {
  Random random(1);
  for (int round = 0; round < 50; ++round) {
    const std::vector<Step> steps = random_steps(random);
    Arena plan;
    CHECK(plan.planning());
    const auto planned = follow(plan, steps);
    Arena arena(plan.peak());
    CHECK(!arena.planning());
    CHECK(follow(arena, steps) == planned);
    CHECK(arena.peak() == plan.peak());
    CHECK(follow(arena, steps) == planned);  // everything was given back
  }
}

// Out of line: the compiler takes the addresses of a planning arena for real ones.
[[gnu::noinline]] void fill(std::byte* block, std::size_t bytes) {
  std::fill_n(block, bytes, std::byte{1});
}

TEST(arena_can_be_written_to_its_end) {
  Arena plan;
  plan.allocate(1000);
  Arena arena(plan.peak());
  std::byte* block = arena.allocate(1000);
  fill(block, 1000 + Arena::kSlack);
  CHECK_THROWS(std::bad_alloc, arena.allocate(1), "");
  arena.release(block);
  CHECK(arena.allocate(1000) == block);
}

TEST(arena_takes_blocks_back) {
  Arena arena(4096);
  float* first = nullptr;
  {
    Block<float> block(arena, 100);
    first = block.get();
    Block<float> moved = std::move(block);
    CHECK(!block && moved.get() == first);  // NOLINT: looked at after the move on purpose
    Block<float> other(arena, 100);
    CHECK(other.get() != first);
    moved = std::move(other);  // gives the first block back
    CHECK(Block<float>(arena, 10).get() == first);
  }
  CHECK(Block<float>(arena, 100).get() == first);
}

}  // namespace
}  // namespace bidiffsr::tests
