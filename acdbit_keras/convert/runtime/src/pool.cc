#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

namespace acdbit {

struct Pool {
  pthread_mutex_t user;   // held by the thread whose inference the pool serves
  pthread_mutex_t mutex;  // for sleeping and waking; guards `calls`
  pthread_cond_t wake;
  pthread_cond_t finished;
  pthread_t threads[kMaxThreads];
  int size;        // threads, the caller not counted; these four belong to who holds `user`
  int wanted;      // as many after a fork, which leaves a child none
  int processors;  // that the process may use
  bool may_spin;
  int calls;  // threads that are to wake up, though there is no region yet
  // Read and written atomically.
  bool stop;
  bool spinning;  // an inference is served whose threads spin
  int sleepers;
  bool waiting;  // the caller sleeps until a region is done
  // The region at hand, which its helpers read once they have joined.
  TaskFunction function;
  void* context;
  int num_tasks;
  int helpers;                // at most
  alignas(64) int next;       // the next task
  alignas(64) int places;     // helpers that may still join
  alignas(64) int finishers;  // helpers that joined and have done their part
  Pool* previous;             // in the list of all pools
  Pool* next_pool;
};

namespace {

// All pools, for the child of a fork: it has their memory but not their threads, and locks as they happened to be.
pthread_mutex_t all_mutex = PTHREAD_MUTEX_INITIALIZER;
bool watching = false;
Pool* all_pools = nullptr;

PoolCounts counts;

template <typename T>
T get(const T* value) {
  return __atomic_load_n(value, __ATOMIC_SEQ_CST);
}
// An exchange, not a store: x86 makes one of the other anyway, and QEMU on x86 lets an emulated ARM's acquiring load
// overtake its releasing store, which the architecture forbids: a caller then slept after its last helper had looked.
template <typename T>
void set(T* value, T to) {
  static_cast<void>(__atomic_exchange_n(value, to, __ATOMIC_SEQ_CST));
}
template <typename T>
T add(T* value, T amount) {
  return __atomic_add_fetch(value, amount, __ATOMIC_SEQ_CST);
}
void count(int64_t* counter, int64_t amount) { __atomic_fetch_add(counter, amount, __ATOMIC_RELAXED); }

// Without threads and regions.
void reset(Pool* pool) {
  pthread_mutex_init(&pool->user, nullptr);
  pthread_mutex_init(&pool->mutex, nullptr);
  pthread_cond_init(&pool->wake, nullptr);
  pthread_cond_init(&pool->finished, nullptr);
  pool->size = pool->calls = pool->sleepers = pool->places = pool->finishers = 0;
  pool->stop = pool->spinning = pool->waiting = false;
}

void before_fork() { pthread_mutex_lock(&all_mutex); }

void in_parent() { pthread_mutex_unlock(&all_mutex); }

void in_child() {
  pthread_mutex_init(&all_mutex, nullptr);
  for (Pool* pool = all_pools; pool != nullptr; pool = pool->next_pool) reset(pool);
}

int64_t now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return int64_t{time.tv_sec} * 1000000000 + time.tv_nsec;
}

// Lets the other thread of the core go first, if there is one.
void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  asm volatile("yield");
#endif
}

// Looks whether `ready`, for as long as threads spin. The result is what was seen last.
template <typename Condition>
bool spin_until(Condition ready) {
  constexpr int kLooks = 64;  // between two looks at the clock
  const int64_t end = now() + kSpinNanoseconds;
  do {
    for (int i = 0; i < kLooks; i++) {
      if (ready()) return true;
      relax();
    }
  } while (now() < end);
  return ready();
}

// === Threads of the pool ===

void run_tasks(Pool* pool, int thread) {
  const int num_tasks = pool->num_tasks;
  for (;;) {
    const int task = __atomic_fetch_add(&pool->next, 1, __ATOMIC_RELAXED);
    if (task >= num_tasks) return;
    pool->function(pool->context, task, thread);
  }
}

// The number of the thread in the region at hand, 0 if there is no place. What the caller wrote before it opened the
// places can be read then, and stays until this thread is among the finishers.
int join(Pool* pool) {
  int places = get(&pool->places);
  while (places > 0)
    if (__atomic_compare_exchange_n(&pool->places, &places, places - 1, true, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
      return pool->helpers - places + 1;
  return 0;
}

void finish(Pool* pool) {
  add(&pool->finishers, 1);
  if (!get(&pool->waiting)) return;
  pthread_mutex_lock(&pool->mutex);
  pthread_cond_signal(&pool->finished);
  pthread_mutex_unlock(&pool->mutex);
}

// Until there is a region, an inference that calls, or the end. Either this thread sees the open places, or who opened
// them sees this sleeper.
void sleep(Pool* pool) {
  pthread_mutex_lock(&pool->mutex);
  add(&pool->sleepers, 1);
  while (!get(&pool->stop) && pool->calls == 0 && get(&pool->places) == 0) pthread_cond_wait(&pool->wake, &pool->mutex);
  if (pool->calls > 0) pool->calls--;
  add(&pool->sleepers, -1);
  pthread_mutex_unlock(&pool->mutex);
}

void* work(void* argument) {
  Pool* pool = static_cast<Pool*>(argument);
  while (!get(&pool->stop)) {
    const int thread = join(pool);
    if (thread > 0) {
      run_tasks(pool, thread);
      finish(pool);
      continue;
    }
    if (get(&pool->spinning))
      spin_until([pool] { return get(&pool->places) > 0 || !get(&pool->spinning) || get(&pool->stop); });
    if (get(&pool->places) == 0) sleep(pool);
  }
  return nullptr;
}

// === The caller ===

// The caller holds `user`. Where the system refuses a thread, it is not asked again.
void grow(Pool* pool) {
  while (pool->size < pool->wanted) {
    if (pthread_create(&pool->threads[pool->size], nullptr, work, pool) != 0) {
      pool->wanted = pool->size;
      return;
    }
    pool->size++;
  }
}

int count_processors() {
  cpu_set_t set;
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : kMaxThreads;
}

// Wakes so many sleepers, for the region at hand or for those to come.
void rouse(Pool* pool, int threads, bool call) {
  pthread_mutex_lock(&pool->mutex);
  if (call) pool->calls = threads;
  for (int i = 0; i < threads; i++) pthread_cond_signal(&pool->wake);
  pthread_mutex_unlock(&pool->mutex);
  count(&counts.wakes, threads);
}

void wait_for(Pool* pool, int finishers) {
  const auto done = [pool, finishers] { return get(&pool->finishers) == finishers; };
  if (done() || (get(&pool->spinning) && spin_until(done))) return;
  pthread_mutex_lock(&pool->mutex);
  set(&pool->waiting, true);
  while (!done()) pthread_cond_wait(&pool->finished, &pool->mutex);
  set(&pool->waiting, false);
  pthread_mutex_unlock(&pool->mutex);
}

}  // namespace

Pool* pool_create() {
  void* memory = nullptr;
  if (posix_memalign(&memory, alignof(Pool), sizeof(Pool)) != 0) return nullptr;
  Pool* pool = static_cast<Pool*>(memory);
  memset(memory, 0, sizeof(Pool));
  reset(pool);
  pool->may_spin = true;
  pthread_mutex_lock(&all_mutex);
  if (!watching) watching = pthread_atfork(before_fork, in_parent, in_child) == 0;
  pool->next_pool = all_pools;
  if (all_pools != nullptr) all_pools->previous = pool;
  all_pools = pool;
  pthread_mutex_unlock(&all_mutex);
  return pool;
}

void pool_destroy(Pool* pool) {
  if (pool == nullptr) return;
  pthread_mutex_lock(&all_mutex);
  if (pool->next_pool != nullptr) pool->next_pool->previous = pool->previous;
  (pool->previous != nullptr ? pool->previous->next_pool : all_pools) = pool->next_pool;
  pthread_mutex_unlock(&all_mutex);
  pthread_mutex_lock(&pool->mutex);
  set(&pool->stop, true);
  pthread_cond_broadcast(&pool->wake);
  pthread_mutex_unlock(&pool->mutex);
  for (int i = 0; i < pool->size; i++) pthread_join(pool->threads[i], nullptr);
  pthread_cond_destroy(&pool->finished);
  pthread_cond_destroy(&pool->wake);
  pthread_mutex_destroy(&pool->mutex);
  pthread_mutex_destroy(&pool->user);
  free(pool);
}

void pool_grow(Pool* pool, int threads) {
  if (threads > kMaxThreads) threads = kMaxThreads;
  pthread_mutex_lock(&pool->user);
  if (pool->wanted < threads - 1) pool->wanted = threads - 1;
  pool->processors = count_processors();
  grow(pool);
  pthread_mutex_unlock(&pool->user);
}

void pool_set_spin(Pool* pool, bool spin) {
  pthread_mutex_lock(&pool->user);
  pool->may_spin = spin;
  pthread_mutex_unlock(&pool->user);
}

Crew pool_enter(Pool* pool, int threads, int64_t nanoseconds) {
  const Crew alone = {nullptr, 1};
  if (threads <= 1 || nanoseconds < kWakeNanoseconds || pthread_mutex_trylock(&pool->user) != 0) return alone;
  grow(pool);
  if (threads > pool->size + 1) threads = pool->size + 1;
  if (threads <= 1) {
    pthread_mutex_unlock(&pool->user);
    return alone;
  }
  if (pool->may_spin && threads <= pool->processors) {
    set(&pool->spinning, true);
    rouse(pool, threads - 1, true);
  }
  return {pool, threads};
}

void pool_leave(const Crew& crew) {
  Pool* pool = crew.pool;
  if (pool == nullptr) return;
  pthread_mutex_lock(&pool->mutex);
  pool->calls = 0;
  pthread_mutex_unlock(&pool->mutex);
  set(&pool->spinning, false);
  pthread_mutex_unlock(&pool->user);
}

void parallel(const Crew& crew, int num_tasks, int64_t nanoseconds, TaskFunction function, void* context) {
  Pool* pool = crew.pool;
  int64_t threads = nanoseconds / kShareNanoseconds;
  if (threads > crew.threads) threads = crew.threads;
  if (threads > num_tasks) threads = num_tasks;
  if (threads > 1 && nanoseconds < kWakeNanoseconds && !get(&pool->spinning)) threads = 1;
  if (threads <= 1) {
    for (int task = 0; task < num_tasks; task++) function(context, task, 0);
    count(&counts.alone, 1);
    return;
  }
  const int helpers = static_cast<int>(threads) - 1;
  pool->function = function;
  pool->context = context;
  pool->num_tasks = num_tasks;
  pool->helpers = helpers;
  set(&pool->next, 0);
  set(&pool->finishers, 0);
  set(&pool->places, helpers);
  const int missing = helpers - (pool->size - get(&pool->sleepers));
  if (missing > 0 && nanoseconds >= kWakeNanoseconds) rouse(pool, missing, false);
  count(&counts.regions, 1);

  run_tasks(pool, 0);

  // Who has not joined by now is not needed.
  wait_for(pool, helpers - __atomic_exchange_n(&pool->places, 0, __ATOMIC_SEQ_CST));
}

PoolCounts pool_counts() { return {get(&counts.regions), get(&counts.alone), get(&counts.wakes)}; }

}  // namespace acdbit
