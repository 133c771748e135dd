# One function for each kind of target, so that a folder's CMakeLists.txt is a list of names.

add_library(om_flags INTERFACE)
target_compile_features(om_flags INTERFACE cxx_std_20 c_std_11)
target_compile_options(om_flags INTERFACE
  $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wno-sign-conversion>
  $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra>)
# UBSan's check of vtables asks pipe(2) whether memory can be read, and takes "no descriptor left" for
# "no": that is what some tests bring about.
if(CMAKE_CXX_FLAGS MATCHES "undefined")
  target_compile_options(om_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize=vptr>)
endif()
# In a unity build every file of ours is an included one, whose anonymous namespaces alarm g++.
if(CMAKE_UNITY_BUILD AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
  target_compile_options(om_flags INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-Wno-subobject-linkage>)
endif()
target_include_directories(om_flags INTERFACE ${CMAKE_SOURCE_DIR}/src ${CMAKE_SOURCE_DIR}/include)
target_compile_definitions(om_flags INTERFACE _GNU_SOURCE SPDLOG_FMT_EXTERNAL
  OM_VERSION="${PROJECT_VERSION}")

# ThreadSanitizer makes programs five to fifteen times as slow. Scripts find the factor in their
# environment, too (tests/support/daemon.py).
set(OM_TIME_FACTOR 1)
if(CMAKE_CXX_FLAGS MATCHES "sanitize=thread")
  set(OM_TIME_FACTOR 5)
endif()

# om_library(name SOURCES a.cc b.cc USES om_base posix-package ...)
function(om_library name)
  cmake_parse_arguments(ARG "" "" "SOURCES;USES" ${ARGN})
  if(ARG_SOURCES)
    add_library(${name} STATIC ${ARG_SOURCES})
    target_link_libraries(${name} PUBLIC om_flags ${ARG_USES})
  else()
    add_library(${name} INTERFACE)
    target_link_libraries(${name} INTERFACE om_flags ${ARG_USES})
  endif()
endfunction()

# om_program(name SOURCES main.cc USES om_server): goes to bin/
function(om_program name)
  cmake_parse_arguments(ARG "" "" "SOURCES;USES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE om_flags ${ARG_USES})
endfunction()

# om_test(name SOURCES x_test.cc USES om_x): a GoogleTest program, one ctest per program
function(om_test name)
  cmake_parse_arguments(ARG "" "" "SOURCES;USES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE om_flags ${ARG_USES} GTest::gtest_main GTest::gmock)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/test)
  add_test(NAME ${name} COMMAND ${name})
  math(EXPR timeout "300 * ${OM_TIME_FACTOR}")
  set_tests_properties(${name} PROPERTIES LABELS unit TIMEOUT ${timeout})
endfunction()

# om_fuzz(name SOURCES x_fuzz.cc USES om_x): a libFuzzer program; a short run is a ctest
function(om_fuzz name)
  if(NOT OM_FUZZ)
    return()
  endif()
  cmake_parse_arguments(ARG "" "" "SOURCES;USES" ${ARGN})
  add_executable(${name} ${ARG_SOURCES})
  target_link_libraries(${name} PRIVATE om_flags ${ARG_USES})
  target_compile_options(${name} PRIVATE -fsanitize=fuzzer)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/test)
  set(seconds 10)
  if(DEFINED ENV{OM_FUZZ_SECONDS})
    set(seconds $ENV{OM_FUZZ_SECONDS})
  endif()
  file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/fuzz/${name})
  add_test(NAME ${name}
    COMMAND ${name} -max_total_time=${seconds} -timeout=20 -print_final_stats=1
            ${CMAKE_BINARY_DIR}/fuzz/${name} ${CMAKE_SOURCE_DIR}/tests/fuzz-corpus/${name})
  set_tests_properties(${name} PROPERTIES LABELS fuzz)
  # `om_fuzzers` builds them all, and nothing that they do not need.
  if(NOT TARGET om_fuzzers)
    add_custom_target(om_fuzzers)
  endif()
  add_dependencies(om_fuzzers ${name})
  file(MAKE_DIRECTORY ${CMAKE_SOURCE_DIR}/tests/fuzz-corpus/${name})
endfunction()

# om_script_test(name COMMAND ... [LABELS ...] [TIMEOUT s] [COST s]): a test that drives whole processes.
# COST: what takes that many seconds begins first, so that nothing waits for it alone at the end.
function(om_script_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT;COST" "COMMAND;LABELS" ${ARGN})
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  math(EXPR timeout "${ARG_TIMEOUT} * ${OM_TIME_FACTOR}")
  if(NOT ARG_COST)
    set(ARG_COST 1)
  endif()
  set(slow)
  if(OM_TIME_FACTOR GREATER 1)
    set(slow ";OM_TIME_FACTOR=${OM_TIME_FACTOR}")
  endif()
  add_test(NAME ${name} COMMAND ${ARG_COMMAND})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${timeout} COST ${ARG_COST} LABELS "${ARG_LABELS}"
    ENVIRONMENT "OM_BUILD_DIR=${CMAKE_BINARY_DIR};OM_SOURCE_DIR=${CMAKE_SOURCE_DIR};PYTHONDONTWRITEBYTECODE=1;PYTHONPATH=${CMAKE_SOURCE_DIR}/tests${slow}")
endfunction()

# om_preload(name): name.c as test/name.so, for tests to put into a program that knows nothing of it (LD_PRELOAD).
function(om_preload name)
  add_library(om_${name} MODULE ${name}.c)
  set_target_properties(om_${name} PROPERTIES PREFIX "" OUTPUT_NAME ${name}
    LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/test)
  target_link_libraries(om_${name} PRIVATE ${CMAKE_DL_LIBS})
endfunction()
