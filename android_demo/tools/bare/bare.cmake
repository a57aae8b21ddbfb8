# Android without an NDK: clang and lld of the distribution, own declarations of bionic (include/), stub libraries that native.py
# makes. For the offline build and for tests; a release is built with the NDK. native.py says the rest in
# the environment, which CMake hands on to its own trial builds.
set(CMAKE_SYSTEM_NAME Android)
set(CMAKE_SYSTEM_VERSION 1)  # from 21 on CMake would look for an NDK
set(CMAKE_SYSTEM_PROCESSOR $ENV{ACDBIT_BARE_CPU})
set(CMAKE_C_COMPILER clang)
set(CMAKE_CXX_COMPILER clang++)
set(CMAKE_C_COMPILER_TARGET $ENV{ACDBIT_BARE_CPU}-linux-android24)
set(CMAKE_CXX_COMPILER_TARGET $ENV{ACDBIT_BARE_CPU}-linux-android24)
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY)

set(_flags "-ffreestanding -fbuiltin -isystem ${CMAKE_CURRENT_LIST_DIR}/include \
-isystem $ENV{ACDBIT_BARE_JAVA} -isystem $ENV{ACDBIT_BARE_JAVA}/linux -fno-stack-protector -fno-asynchronous-unwind-tables")
set(CMAKE_C_FLAGS_INIT "${_flags}")
set(CMAKE_CXX_FLAGS_INIT "${_flags} -nostdinc++")
set(CMAKE_SHARED_LINKER_FLAGS_INIT "-fuse-ld=lld -nostdlib -nostartfiles -Wl,--hash-style=gnu -Wl,--pack-dyn-relocs=none \
-Wl,-z,relro,-z,now,-z,noexecstack,-z,separate-loadable-segments -Wl,--build-id=sha1 -Wl,--gc-sections")
# Behind the objects: what they call of libc, libm and the compiler's own library.
set(CMAKE_C_STANDARD_LIBRARIES "$ENV{ACDBIT_BARE_LIBRARIES}")

# The threads are in bionic's libc.
set(THREADS_PREFER_PTHREAD_FLAG OFF)
set(CMAKE_THREAD_LIBS_INIT "")
set(CMAKE_HAVE_LIBC_PTHREAD TRUE)
set(Threads_FOUND TRUE)
