// Lets one allocation of the library fail, in programs linked with the options of ACDBIT_FAILING_ALLOCATIONS
// (CMakeLists.txt). The standard library of C++ allocates elsewhere and is not affected.
#pragma once

namespace acdbit {

// The allocation after the next `count` of this thread fails, and threads cannot be started; -1: none fails.
void fail_allocation(int count);
// Whether the announced failure has happened since.
bool allocation_failed();

}  // namespace acdbit
