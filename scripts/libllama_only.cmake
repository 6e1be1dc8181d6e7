# Included by CMake right after llama-cpp-python's project() call (CMAKE_PROJECT_INCLUDE).
#
# llama-cpp-python builds llama.cpp's `common` library (argument parser, chat formats, HTTP client) with
# every wheel and never loads it. A normal variable shadows the cache entry the package forces to ON, so only
# libllama and ggml are compiled: about a quarter of the CPU time, and the same libllama.
set(LLAMA_BUILD_COMMON OFF)
set(LLAMA_OPENSSL OFF)
