// A small thread pool. The calling thread works too, so a pool of one has no threads of its own.
//
// Which thread runs which task is open; results must not depend on it, and then they are the same for any number.
// Idle threads sleep on a condition variable. A process that was forked gets threads of its own with its first call.
#pragma once

namespace acdbit {

struct Pool;

constexpr int kMaxThreads = 256;

// Runs one task; `thread` is below the `threads` of the call and belongs to this task while it runs.
using TaskFunction = void (*)(void* context, int task, int thread);

// Null if out of memory.
Pool* pool_create();
void pool_destroy(Pool* pool);

// Makes room for `threads`, the caller included. Never shrinks. Where the system refuses a thread, there are fewer.
void pool_grow(Pool* pool, int threads);

// Runs tasks 0 .. num_tasks - 1 on at most `threads` threads and returns when all are done. Callers from several
// threads are served one at a time; who comes while the pool is busy works alone.
void parallel(Pool* pool, int threads, int num_tasks, TaskFunction function, void* context);

}  // namespace acdbit
