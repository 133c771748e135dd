// Bytes of strangers on a terminal, JSON, and the end of the output.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace om::cli {

// Control bytes and what is no UTF-8 as \xNN: a key must not steer a terminal.
std::string printable(std::string_view text);
// One line on standard output. Strings that are no UTF-8 lose the bytes that are not (U+FFFD).
void print_json_line(const nlohmann::json& value);
// Flushes standard output; kDone, or a message and kOther when it did not take everything.
int finish_output();

}  // namespace om::cli
