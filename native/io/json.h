// JSON as model files hold it, read without trusting it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace bidiffsr {

struct Json;
struct JsonMember;
using JsonList = std::vector<Json>;
using JsonObject = std::vector<JsonMember>;  // in the text's order

struct Json {
  std::variant<std::nullptr_t, bool, std::int64_t, double, std::string, JsonList, JsonObject> value;

  const std::string* text() const { return std::get_if<std::string>(&value); }
  const JsonList* list() const { return std::get_if<JsonList>(&value); }
  const JsonObject* object() const { return std::get_if<JsonObject>(&value); }
  const bool* flag() const { return std::get_if<bool>(&value); }
  // A number without a fraction that 64 bits hold.
  const std::int64_t* whole() const { return std::get_if<std::int64_t>(&value); }
  std::optional<double> number() const;
};

struct JsonMember {
  std::string name;
  Json value;
};

// The value of a name, or null.
const Json* find_member(const JsonObject& object, std::string_view name);

// Throws std::invalid_argument, saying at which byte, for what is not JSON (RFC 8259) in UTF-8, and
// for names that are there twice, lists within lists beyond 64, and numbers of more than 64 digits.
Json parse_json(std::string_view text);

// A number as messages show it.
std::string shown(double value);

}  // namespace bidiffsr
