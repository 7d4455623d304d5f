// Loops on the caller's threads: the library has none of its own.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>

#include "error.h"
#include "xnorkit.h"

namespace xk {

// Runs task(i) for every i < count. An exception in a task is thrown again here.
template <class Task>
void parallel_for(const xk_parallel* parallel, int64_t count, const Task& task) {
  if (!parallel || !parallel->run || count < 2) {
    for (int64_t i = 0; i < count; ++i) task(i);
    return;
  }
  struct Job {
    const Task& task;
    std::atomic<bool> failed;
  } job{task, {false}};
  auto body = [](void* argument, size_t index) {
    Job& j = *static_cast<Job*>(argument);
    try {
      j.task(static_cast<int64_t>(index));
    } catch (const std::exception&) {  // only allocation can fail inside a task
      j.failed = true;
    }
  };
  parallel->run(parallel->context, static_cast<size_t>(count), body, &job);
  if (job.failed) fail(XK_OUT_OF_MEMORY, "out of memory for temporaries");
}

}  // namespace xk
