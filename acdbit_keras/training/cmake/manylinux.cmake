# Toolchain: x86_64 Linux with zig (package ziglang of PyPI), which brings a glibc of 2.17 and a C++ library. Debian's own static
# C++ library needs functions of the glibc that it was built with.
set(CMAKE_CXX_COMPILER python-zig c++ -target x86_64-linux-gnu.2.17)
