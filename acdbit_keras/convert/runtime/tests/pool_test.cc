// The thread pool: every task once, on no more threads than asked for, from several callers, and no work when idle.
#include "pool.h"

#include <gtest/gtest.h>
#include <time.h>

#include <atomic>
#include <thread>
#include <vector>

namespace acdbit {
namespace {

struct Record {
  std::vector<std::atomic<int>> runs;
  std::vector<std::atomic<int>> busy;  // per thread number
  std::atomic<int> highest{0};
  std::atomic<bool> shared{false};

  Record(int tasks, int threads) : runs(tasks), busy(threads) {}
};

void note(void* context, int task, int thread) {
  Record* record = static_cast<Record*>(context);
  if (record->busy[thread].fetch_add(1) != 0) record->shared = true;
  record->runs[task]++;
  int highest = record->highest;
  while (thread > highest && !record->highest.compare_exchange_weak(highest, thread)) {
  }
  record->busy[thread]--;
}

void check(Pool* pool, int threads, int tasks) {
  Record record(tasks, threads < 1 ? 1 : threads);
  parallel(pool, threads, tasks, note, &record);
  for (const std::atomic<int>& runs : record.runs) ASSERT_EQ(runs, 1);
  EXPECT_LT(record.highest, threads < 1 ? 1 : threads);
  EXPECT_FALSE(record.shared);
}

TEST(Pool, EveryTaskRunsOnce) {
  Pool* pool = pool_create();
  for (int threads : {1, 2, 3, 8, 4}) {
    pool_grow(pool, threads);
    for (int tasks : {0, 1, 2, 3, 100}) {
      for (int round = 0; round < 50; round++) check(pool, threads, tasks);
    }
  }
  check(pool, 0, 5);
  check(pool, 300, 1000);
  pool_destroy(pool);
}

TEST(Pool, ServesSeveralCallers) {
  Pool* pool = pool_create();
  pool_grow(pool, 3);
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; i++) {
    callers.emplace_back([pool] {
      for (int round = 0; round < 300; round++) check(pool, 3, 1 + round % 17);
    });
  }
  pool_grow(pool, 5);
  for (std::thread& caller : callers) caller.join();
  pool_destroy(pool);
}

TEST(Pool, TwoPoolsInTwoThreads) {
  std::vector<std::thread> owners;
  for (int owner = 0; owner < 2; owner++) {
    owners.emplace_back([owner] {
      for (int life = 0; life < 40; life++) {
        Pool* pool = pool_create();
        const int threads = 1 + (life + owner) % 4;
        pool_grow(pool, threads);
        for (int round = 0; round < 20; round++) check(pool, threads, 1 + 7 * round);
        pool_destroy(pool);
      }
    });
  }
  for (std::thread& owner : owners) owner.join();
}

TEST(Pool, SleepsWhenIdle) {
  Pool* pool = pool_create();
  pool_grow(pool, 4);
  check(pool, 4, 100);
  timespec before, after;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
  const timespec pause = {0, 200000000};
  nanosleep(&pause, nullptr);
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
  const double used = double(after.tv_sec - before.tv_sec) + 1e-9 * double(after.tv_nsec - before.tv_nsec);
  EXPECT_LT(used, 0.05);
  pool_destroy(pool);
}

TEST(Pool, IsDestroyedUnused) {
  pool_destroy(pool_create());
  pool_destroy(nullptr);
}

}  // namespace
}  // namespace acdbit
