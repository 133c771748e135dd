// say_once.h: a trouble that lasts is told when it begins, when it becomes another one, and when it
// is over; not each time that somebody runs into it. One thread's.
#pragma once

#include <string>
#include <utility>

namespace om::vmod {

class SayOnce {
 public:
  // Whether that is to be told: it is not what was told last.
  bool is_news(const std::string& trouble) {
    if (trouble == told_) return false;
    told_ = trouble;
    return true;
  }
  // Whether that is to be told: there was some.
  bool is_over() { return !std::exchange(told_, std::string()).empty(); }

 private:
  std::string told_;
};

}  // namespace om::vmod
