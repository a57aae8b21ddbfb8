// A small thread pool. The calling thread works too, so a pool of one has no threads of its own.
//
// An inference enters the pool, hands out regions of tasks one after the other, and leaves it. Its threads are woken
// once, when it enters, and spin between its regions, for a region is often shorter than waking a thread; both they and
// the caller, who waits for the last task of a region, give up after kSpinNanoseconds and sleep. Outside an inference
// nobody spins, and nobody does where there are more threads than processors, or where it was switched off to save
// energy: then a region wakes threads only if it is long enough for that.
//
// Which thread runs which task is open; results must not depend on it, and then they are the same for any number. A
// process that was forked gets threads of its own with its first call.
#pragma once

#include <stdint.h>

namespace acdbit {

struct Pool;

constexpr int kMaxThreads = 256;

// Work is measured in nanoseconds of one thread, as estimated by the ops. Less than kWakeNanoseconds are done before a
// thread has woken up; a thread gets no less than kShareNanoseconds of a region, which is what handing it over costs.
constexpr int64_t kWakeNanoseconds = 100000;
constexpr int64_t kShareNanoseconds = 1000;
constexpr int64_t kSpinNanoseconds = 100000;

// Runs one task; `thread` is below the threads of the crew and belongs to this task while it runs.
using TaskFunction = void (*)(void* context, int task, int thread);

// Null if out of memory.
Pool* pool_create();
void pool_destroy(Pool* pool);

// Makes room for `threads`, the caller included. Never shrinks. Where the system refuses a thread, there are fewer.
void pool_grow(Pool* pool, int threads);
// Whether threads may spin; they may at first.
void pool_set_spin(Pool* pool, bool spin);

// Who works on an inference: the caller alone (no pool), or with threads of the pool.
struct Crew {
  Pool* pool;
  int threads;  // at most, the caller included
};

// Gathers at most `threads` for an inference of so much work; `pool_leave` releases them. Alone works who has too
// little to do, and who comes while another thread has entered.
Crew pool_enter(Pool* pool, int threads, int64_t nanoseconds);
void pool_leave(const Crew& crew);

// Runs tasks 0 .. num_tasks - 1, of so much work together, and returns when all are done.
void parallel(const Crew& crew, int num_tasks, int64_t nanoseconds, TaskFunction function, void* context);

// How `rows` are cut into tasks: in units of kRowUnit, which every kernel multiplies without a remainder, into equal
// shares (but for one unit) of about kShareRows, as many for each thread, so that none is idle while another has rows.
constexpr int kRowUnit = 4;
constexpr int kShareRows = 32;

struct Shares {
  int rows;
  int units;
  int count;

  Shares(int num_rows, int threads) : rows(num_rows), units((num_rows + kRowUnit - 1) / kRowUnit) {
    const int turn = threads * (kShareRows / kRowUnit);
    const int turns = threads == 1 ? 1 : (units + turn - 1) / turn;
    count = turns * threads < units ? turns * threads : units;
  }
  // First row of a share; of share `count`, the number of rows.
  int first(int share) const {
    const int64_t row = int64_t{units} * share / count * kRowUnit;
    return row < rows ? static_cast<int>(row) : rows;
  }
};

// What all pools of the process have done, for tests.
struct PoolCounts {
  int64_t regions;  // offered to other threads than the caller
  int64_t alone;    // done by the caller alone, for they were too short or nobody was there
  int64_t wakes;    // threads that were asked to wake up
};
PoolCounts pool_counts();

}  // namespace acdbit
