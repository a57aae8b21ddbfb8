#include "pool.h"

#include <pthread.h>
#include <stdlib.h>

namespace acdbit {

struct Pool {
  pthread_mutex_t user;   // held by the thread whose tasks the pool runs
  pthread_mutex_t mutex;  // guards all below but `next`
  pthread_cond_t wake;
  pthread_cond_t finished;
  pthread_t threads[kMaxThreads];
  int size;    // threads, the caller not counted
  int wanted;  // as many after a fork, which leaves a child none
  bool stop;
  // The call being served.
  TaskFunction function;
  void* context;
  int num_tasks;
  int next;     // the next task; taken atomically
  int places;   // threads that may still join
  int working;  // threads that joined and have not left
  int joined;
  Pool* previous;  // in the list of all pools
  Pool* next_pool;
};

namespace {

// All pools, for the child of a fork: it has their memory but not their threads, and locks as they happened to be.
pthread_mutex_t all_mutex = PTHREAD_MUTEX_INITIALIZER;
bool watching = false;
Pool* all_pools = nullptr;

// Without threads and calls.
void reset(Pool* pool) {
  pthread_mutex_init(&pool->user, nullptr);
  pthread_mutex_init(&pool->mutex, nullptr);
  pthread_cond_init(&pool->wake, nullptr);
  pthread_cond_init(&pool->finished, nullptr);
  pool->size = pool->places = pool->working = 0;
  pool->stop = false;
}

void before_fork() { pthread_mutex_lock(&all_mutex); }

void in_parent() { pthread_mutex_unlock(&all_mutex); }

void in_child() {
  pthread_mutex_init(&all_mutex, nullptr);
  for (Pool* pool = all_pools; pool != nullptr; pool = pool->next_pool) reset(pool);
}

void run_tasks(Pool* pool, int thread) {
  const int num_tasks = pool->num_tasks;
  for (;;) {
    const int task = __atomic_fetch_add(&pool->next, 1, __ATOMIC_RELAXED);
    if (task >= num_tasks) return;
    pool->function(pool->context, task, thread);
  }
}

void* work(void* argument) {
  Pool* pool = static_cast<Pool*>(argument);
  pthread_mutex_lock(&pool->mutex);
  for (;;) {
    while (!pool->stop && pool->places == 0) pthread_cond_wait(&pool->wake, &pool->mutex);
    if (pool->stop) break;
    pool->places--;
    pool->working++;
    const int thread = ++pool->joined;  // 0 is the caller
    pthread_mutex_unlock(&pool->mutex);
    run_tasks(pool, thread);
    pthread_mutex_lock(&pool->mutex);
    if (--pool->working == 0) pthread_cond_signal(&pool->finished);
  }
  pthread_mutex_unlock(&pool->mutex);
  return nullptr;
}

// The caller holds `user`. Where the system refuses a thread, it is not asked again.
void grow(Pool* pool) {
  while (pool->size < pool->wanted) {
    if (pthread_create(&pool->threads[pool->size], nullptr, work, pool) != 0) {
      pool->wanted = pool->size;
      return;
    }
    pthread_mutex_lock(&pool->mutex);
    pool->size++;
    pthread_mutex_unlock(&pool->mutex);
  }
}

}  // namespace

Pool* pool_create() {
  Pool* pool = static_cast<Pool*>(calloc(1, sizeof(Pool)));
  if (pool == nullptr) return nullptr;
  reset(pool);
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
  pool->stop = true;
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
  grow(pool);
  pthread_mutex_unlock(&pool->user);
}

void parallel(Pool* pool, int threads, int num_tasks, TaskFunction function, void* context) {
  if (threads <= 1 || num_tasks <= 1 || pthread_mutex_trylock(&pool->user) != 0) {
    for (int task = 0; task < num_tasks; task++) function(context, task, 0);
    return;
  }
  grow(pool);
  pthread_mutex_lock(&pool->mutex);
  pool->function = function;
  pool->context = context;
  pool->num_tasks = num_tasks;
  pool->next = 0;
  pool->joined = 0;
  int helpers = (threads < num_tasks ? threads : num_tasks) - 1;
  if (helpers > pool->size) helpers = pool->size;
  pool->places = helpers;
  for (int i = 0; i < helpers; i++) pthread_cond_signal(&pool->wake);
  pthread_mutex_unlock(&pool->mutex);

  run_tasks(pool, 0);

  pthread_mutex_lock(&pool->mutex);
  pool->places = 0;  // who has not woken up by now is not needed
  while (pool->working != 0) pthread_cond_wait(&pool->finished, &pool->mutex);
  pthread_mutex_unlock(&pool->mutex);
  pthread_mutex_unlock(&pool->user);
}

}  // namespace acdbit
