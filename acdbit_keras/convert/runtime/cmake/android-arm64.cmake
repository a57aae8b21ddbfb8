# Toolchain: arm64 Android with the NDK in the environment variable ANDROID_NDK_ROOT.
set(ACDBIT_NDK_TOOLCHAIN "$ENV{ANDROID_NDK_ROOT}/build/cmake/android.toolchain.cmake")
if(NOT EXISTS "${ACDBIT_NDK_TOOLCHAIN}")
  message(FATAL_ERROR
    "Set ANDROID_NDK_ROOT to an Android NDK (r21 or newer): there is no ${ACDBIT_NDK_TOOLCHAIN}.")
endif()
set(ANDROID_ABI arm64-v8a)
set(ANDROID_PLATFORM android-21)
# The library uses none.
set(ANDROID_STL none)
include("${ACDBIT_NDK_TOOLCHAIN}")
