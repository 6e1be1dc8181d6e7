# Included by CMake right after llama-cpp-python's project() call (CMAKE_PROJECT_INCLUDE).
#
# llama-cpp-python builds llama.cpp's `common` library (argument parser, chat formats, HTTP client) with
# every wheel and never loads it. A normal variable shadows the cache entry the package forces to ON, so only
# libllama and ggml are compiled: about a quarter of the CPU time, and the same libllama.
set(LLAMA_BUILD_COMMON OFF)
set(LLAMA_OPENSSL OFF)

# The package installs the libraries of GGML_RPC, and not the server program, which is one file more. So the program is
# built here, and lies beside the libraries. The folder of the tool cannot be added when the package is done. This file
# is included for each project() of the build; the package is the first.
if(CMAKE_CURRENT_SOURCE_DIR STREQUAL CMAKE_SOURCE_DIR)
    function(neuron_add_rpc_server)
        if(TARGET ggml-rpc AND NOT TARGET ggml-rpc-server)
            add_executable(ggml-rpc-server vendor/llama.cpp/tools/rpc/rpc-server.cpp)
            target_link_libraries(ggml-rpc-server PRIVATE ggml)
            target_compile_features(ggml-rpc-server PRIVATE cxx_std_17)
            llama_cpp_python_install_target(ggml-rpc-server)
        endif()
    endfunction()
    cmake_language(DEFER CALL neuron_add_rpc_server)

    # What llama.cpp's backend for Vulkan wants of newer headers than a distribution may have; otherwise it is empty.
    function(neuron_mend_vulkan)
        if(TARGET ggml-vulkan)
            target_compile_options(ggml-vulkan PRIVATE -include "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/older_vulkan.hpp")
        endif()
    endfunction()
    cmake_language(DEFER CALL neuron_mend_vulkan)
endif()
