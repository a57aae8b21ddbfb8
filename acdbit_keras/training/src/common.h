// What the kernels of every instruction set include before their namespace opens.
#ifndef ACDBIT_TRAINING_COMMON_H_
#define ACDBIT_TRAINING_COMMON_H_

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "block.h"

#endif  // ACDBIT_TRAINING_COMMON_H_
