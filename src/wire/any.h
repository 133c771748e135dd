// Every message by its type number: for tools and tests that take packets as they come. The server
// and the client decode the one type that they expect.
#pragma once

#include <optional>
#include <span>
#include <string>

#include "wire/codec.h"
#include "wire/messages.h"

namespace om::wire {

// Decodes the body of a packet, whatever its type, and encodes it again: the same packet where it
// was well-formed. nullopt: no such type. Failed replies have a body of their own form.
std::optional<Result<std::string>> reencode(const Header& header,
                                            std::span<const std::byte> packet);

}  // namespace om::wire
