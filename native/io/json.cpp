#include "io/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <locale>
#include <sstream>
#include <stdexcept>
#include <utility>

namespace bidiffsr {

namespace {

constexpr int kDeepest = 64;
constexpr std::size_t kLongestNumber = 64;

// Bytes of the UTF-8 character that begins here (RFC 3629); 0 where none does.
std::size_t character_length(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i)
    if (byte(i) >> 6 != 2) return 0;
  const unsigned second = byte(1);
  const bool wrong = (first == 0xe0 && second < 0xa0) || (first == 0xed && second > 0x9f) ||
                     (first == 0xf0 && second < 0x90) || (first == 0xf4 && second > 0x8f);
  return wrong ? 0 : length;
}

void append_utf8(std::string& text, std::uint32_t code) {
  const auto put = [&](std::uint32_t byte) { text += static_cast<char>(byte); };
  if (code < 0x80) return put(code);
  if (code < 0x800) {
    put(0xc0 | code >> 6);
  } else if (code < 0x10000) {
    put(0xe0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3f));
  } else {
    put(0xf0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3f));
    put(0x80 | (code >> 6 & 0x3f));
  }
  put(0x80 | (code & 0x3f));
}

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  Json document() {
    Json result = value(0);
    skip_space();
    if (at_ < text_.size()) fail("something follows");
    return result;
  }

 private:
  [[noreturn]] void fail(const char* what) const {
    throw std::invalid_argument("is not JSON: " + std::string(what) + " at byte " +
                                std::to_string(at_));
  }
  char peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void skip_space() {
    while (at_ < text_.size() && std::string_view(" \t\r\n").find(text_[at_]) < 4) ++at_;
  }
  bool accept(char wanted) {
    skip_space();
    if (peek() != wanted) return false;
    ++at_;
    return true;
  }
  void expect(char wanted, const char* what) {
    if (!accept(wanted)) fail(what);
  }
  bool accept_word(std::string_view word) {
    if (text_.substr(at_, word.size()) != word) return false;
    at_ += word.size();
    return true;
  }

  Json value(int depth) {
    if (depth > kDeepest) fail("nested too deeply");
    skip_space();
    switch (peek()) {
      case '{':
        return {object(depth)};
      case '[':
        return {list(depth)};
      case '"':
        return {string()};
      default:
        if (accept_word("null")) return {nullptr};
        if (accept_word("true")) return {true};
        if (accept_word("false")) return {false};
        return number();
    }
  }

  JsonObject object(int depth) {
    JsonObject members;
    ++at_;
    if (accept('}')) return members;
    do {
      skip_space();
      if (peek() != '"') fail("a name is missing");
      std::string name = string();
      expect(':', "a colon is missing");
      members.push_back({std::move(name), value(depth + 1)});
    } while (accept(','));
    expect('}', "an object does not end");
    std::vector<std::string_view> names;
    for (const JsonMember& member : members) names.push_back(member.name);
    std::sort(names.begin(), names.end());
    if (std::adjacent_find(names.begin(), names.end()) != names.end())
      fail("a name was there twice");
    return members;
  }

  JsonList list(int depth) {
    JsonList values;
    ++at_;
    if (accept(']')) return values;
    do values.push_back(value(depth + 1));
    while (accept(','));
    expect(']', "a list does not end");
    return values;
  }

  std::string string() {
    std::string result;
    for (++at_; peek() != '"';) {
      if (at_ >= text_.size()) fail("a text does not end");
      if (static_cast<unsigned char>(peek()) < 0x20) fail("a control character");
      if (peek() == '\\') {
        ++at_;
        escape(result);
        continue;
      }
      const std::size_t length = character_length(text_.substr(at_));
      if (!length) fail("no UTF-8");
      result += text_.substr(at_, length);
      at_ += length;
    }
    ++at_;
    return result;
  }

  void escape(std::string& to) {
    constexpr std::string_view kLetters = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
    const char letter = peek();
    const std::size_t known = letter ? kLetters.find(letter) : std::string_view::npos;
    if (letter != 'u' && known == std::string_view::npos) fail("an unknown escape");
    ++at_;
    if (letter != 'u') {
      to += kMeanings[known];
      return;
    }
    std::uint32_t code = hexadecimal();
    if (code >= 0xd800 && code < 0xdc00 && accept_word("\\u")) {
      const std::uint32_t low = hexadecimal();
      if (low < 0xdc00 || low > 0xdfff) fail("half a character");
      code = 0x10000 + ((code - 0xd800) << 10) + (low - 0xdc00);
    }
    if (code >= 0xd800 && code < 0xe000) fail("half a character");
    append_utf8(to, code);
  }

  std::uint32_t hexadecimal() {
    std::uint32_t code = 0;
    const std::string_view digits = text_.substr(at_, 4);
    const auto [end, error] =
        std::from_chars(digits.data(), digits.data() + digits.size(), code, 16);
    if (digits.size() != 4 || error != std::errc() || end != digits.data() + 4)
      fail("four hexadecimal digits are missing");
    at_ += 4;
    return code;
  }

  std::size_t digits() {
    const std::size_t start = at_;
    while (peek() >= '0' && peek() <= '9') ++at_;
    return at_ - start;
  }

  Json number() {
    const std::size_t start = at_;
    if (peek() == '-') ++at_;
    const bool zero = peek() == '0';
    const std::size_t before = digits();
    if (!before || (zero && before > 1)) fail("no value");
    bool whole = true;
    if (peek() == '.') {
      ++at_;
      whole = false;
      if (!digits()) fail("a fraction without digits");
    }
    if (peek() == 'e' || peek() == 'E') {
      ++at_;
      whole = false;
      if (peek() == '+' || peek() == '-') ++at_;
      if (!digits()) fail("an exponent without digits");
    }
    const std::string_view text = text_.substr(start, at_ - start);
    if (text.size() > kLongestNumber) fail("a number is too long");
    std::int64_t result = 0;
    if (whole && std::from_chars(text.data(), text.data() + text.size(), result).ec == std::errc())
      return {result};
    // from_chars of doubles is missing from some standard libraries still.
    std::istringstream stream{std::string(text)};
    stream.imbue(std::locale::classic());
    double real = 0;
    if (!(stream >> real) || !std::isfinite(real)) fail("a number is too large");
    return {real};
  }

  std::string_view text_;
  std::size_t at_ = 0;
};

}  // namespace

std::optional<double> Json::number() const {
  if (const auto* found = whole()) return static_cast<double>(*found);
  if (const auto* found = std::get_if<double>(&value)) return *found;
  return std::nullopt;
}

const Json* find_member(const JsonObject& object, std::string_view name) {
  for (const JsonMember& member : object)
    if (member.name == name) return &member.value;
  return nullptr;
}

Json parse_json(std::string_view text) { return Parser(text).document(); }

std::string shown(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

}  // namespace bidiffsr
