# find_package(acdbit_runtime) gives the target acdbit::runtime.
include("${CMAKE_CURRENT_LIST_DIR}/acdbit_runtimeTargets.cmake")
