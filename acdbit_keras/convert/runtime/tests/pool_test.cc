// The thread pool: every task once, on no more threads than asked for, from several callers, no more threads woken than
// a region is worth, shares that leave none idle, and no work when idle.
#include "pool.h"

#include <gtest/gtest.h>
#include <time.h>

#include <algorithm>
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

constexpr int64_t kLong = 100 * kWakeNanoseconds;

// As one inference of two regions.
void check(Pool* pool, int threads, int tasks) {
  Record record(tasks, threads < 1 ? 1 : threads), second(tasks, threads < 1 ? 1 : threads);
  const Crew crew = pool_enter(pool, threads, kLong);
  parallel(crew, tasks, kLong, note, &record);
  parallel(crew, tasks, kLong, note, &second);
  pool_leave(crew);
  for (const std::atomic<int>& runs : second.runs) ASSERT_EQ(runs, 1);
  for (const std::atomic<int>& runs : record.runs) ASSERT_EQ(runs, 1);
  EXPECT_LT(record.highest, threads < 1 ? 1 : threads);
  EXPECT_FALSE(record.shared);
}

void every_task_runs_once(bool spin) {
  Pool* pool = pool_create();
  pool_set_spin(pool, spin);
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

TEST(Pool, EveryTaskRunsOnce) { every_task_runs_once(true); }

TEST(Pool, EveryTaskRunsOnceWithoutSpinning) { every_task_runs_once(false); }

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

// What a region is worth: no thread for less than it takes to hand over its share, none that sleeps for less than it
// takes to wake it, and nobody at all for an inference that is over before.
TEST(Pool, CountsTheCostBeforeItWakes) {
  Pool* pool = pool_create();
  pool_grow(pool, 4);
  struct Case {
    bool spin;
    int64_t inference, region;
    int regions, wakes, alone;
  };
  const Case cases[] = {
      {true, kWakeNanoseconds - 1, kWakeNanoseconds - 1, 0, 0, 1},  // nobody enters
      {false, kLong, kWakeNanoseconds - 1, 0, 0, 1},                // who sleeps is let sleep
      {false, kLong, kWakeNanoseconds, 1, 1, 0},
      {false, kLong, 1, 0, 0, 1},
  };
  for (const Case& each : cases) {
    pool_set_spin(pool, each.spin);
    // Until all threads sleep.
    const timespec pause = {0, 20000000};
    nanosleep(&pause, nullptr);
    const PoolCounts before = pool_counts();
    Record record(2, 4);
    const Crew crew = pool_enter(pool, 4, each.inference);
    parallel(crew, 2, each.region, note, &record);
    pool_leave(crew);
    const PoolCounts after = pool_counts();
    EXPECT_EQ(after.regions - before.regions, each.regions);
    EXPECT_EQ(after.wakes - before.wakes, each.wakes);
    EXPECT_EQ(after.alone - before.alone, each.alone);
    for (const std::atomic<int>& runs : record.runs) EXPECT_EQ(runs, 1);
  }
  pool_destroy(pool);
}

// The shares of the threads differ by less than a unit for each turn, so none waits for another: whatever the number of
// threads, but that there are no more shares than units.
TEST(Shares, LeaveNoThreadIdle) {
  for (int rows : {1, 4, 16, 17, 49, 64, 196, 197, 1024}) {
    for (int threads = 1; threads <= 9; threads++) {
      const Shares shares(rows, threads);
      EXPECT_EQ(shares.first(0), 0);
      EXPECT_EQ(shares.first(shares.count), rows);
      EXPECT_TRUE(shares.count == shares.units || shares.count % threads == 0) << rows << " rows, " << threads;
      std::vector<int> of_thread(threads);
      for (int share = 0; share < shares.count; share++) {
        const int first = shares.first(share), size = shares.first(share + 1) - first;
        EXPECT_GT(size, 0);
        EXPECT_EQ(first % kRowUnit, 0);
        EXPECT_LE(size, threads > 1 ? kShareRows : rows);
        of_thread[share % threads] += size;
      }
      if (shares.units < threads) continue;
      const auto [least, most] = std::minmax_element(of_thread.begin(), of_thread.end());
      EXPECT_LE(*most - *least, kRowUnit * (shares.count / threads)) << rows << " rows, " << threads << " threads";
    }
  }
}

// The tokens of DeiT-S and of a small model on four cores: at least nine tenths of the time of every thread is work.
TEST(Shares, KeepFourCoresBusy) {
  for (int rows : {16, 64, 196}) {
    const Shares shares(rows, 4);
    std::vector<int> of_thread(4);
    for (int share = 0; share < shares.count; share++)
      *std::min_element(of_thread.begin(), of_thread.end()) += shares.first(share + 1) - shares.first(share);
    EXPECT_GE(rows, 0.9 * 4 * *std::max_element(of_thread.begin(), of_thread.end())) << rows;
  }
}

TEST(Pool, IsDestroyedUnused) {
  pool_destroy(pool_create());
  pool_destroy(nullptr);
}

}  // namespace
}  // namespace acdbit
