// The log: to stderr, one line an event, "what key=value key=value". To the journal lines carry
// their priority (sd-daemon(3)) and no time, because the journal has it.
#pragma once

#include <spdlog/spdlog.h>

#include <string>

namespace om::server {

void start_log(const std::string& level);
void set_log_level(const std::string& level);

}  // namespace om::server
