// JSON and model files: what is read, and that whatever is damaged is refused without harm.
#include <cstring>
#include <span>

#include "check.h"
#include "io/json.h"
#include "io/model_file.h"
#include "model_bytes.h"

namespace bidiffsr::tests {

namespace {

std::string text_of(const char* json) { return *parse_json(json).text(); }

bool refused(const std::vector<std::byte>& bytes) {
  try {
    const ModelFile file{std::span<const std::byte>(bytes)};
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

}  // namespace

TEST(json_values_are_read) {
  const Json json = parse_json(R"( {"a": [1, -2.5e1, true, null, {}], "b": "x"} )");
  const JsonList& list = *find_member(*json.object(), "a")->list();
  CHECK(list.size() == 5);
  CHECK(*list[0].whole() == 1);
  CHECK(!list[1].whole() && *list[1].number() == -25);
  CHECK(*list[2].flag());
  CHECK(std::holds_alternative<std::nullptr_t>(list[3].value));
  CHECK(list[4].object()->empty());
  CHECK(*find_member(*json.object(), "b")->text() == "x");
  CHECK(!find_member(*json.object(), "c"));
  CHECK(*parse_json("9223372036854775807").whole() == INT64_MAX);
  CHECK(!parse_json("9223372036854775808").whole());
}

TEST(json_texts_are_read) {
  CHECK(text_of(R"("\"\\\/\b\f\n\r\t")") == "\"\\/\b\f\n\r\t");
  CHECK(text_of(R"("\u0041\u00e4\u20ac\ud83d\ude00")") == "A\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80");
  CHECK(text_of("\"\xc3\xa4\xf0\x9f\x98\x80\"") == "\xc3\xa4\xf0\x9f\x98\x80");
}

TEST(what_is_not_json_is_refused) {
  for (const char* json : {"",
                           " ",
                           "{",
                           "[",
                           "[1",
                           "[1,",
                           "[1,]",
                           "{\"a\"}",
                           "{\"a\":}",
                           "{\"a\":1,}",
                           "{a:1}",
                           "{\"a\":1,\"a\":2}",
                           "\"",
                           "\"\\",
                           "\"\\x\"",
                           "\"\\u12\"",
                           "\"\\u12g4\"",
                           "\"\\ud800\"",
                           "\"\\ud800\\u0041\"",
                           "\"\\udc00\"",
                           "\"\n\"",
                           "\"\x01\"",
                           "\"\x80\"",
                           "\"\xc0\xaf\"",
                           "\"\xed\xa0\x80\"",
                           "\"\xf4\x90\x80\x80\"",
                           "\"\xe2\x82\"",
                           "01",
                           "-",
                           "1.",
                           ".5",
                           "1e",
                           "+1",
                           "0x1",
                           "NaN",
                           "Infinity",
                           "1e999",
                           "nul",
                           "truefalse",
                           "1 2",
                           "{} x",
                           "\xef\xbb\xbf{}",
                           "'a'"})
    CHECK_THROWS(std::invalid_argument, parse_json(json), json);
  CHECK_THROWS(std::invalid_argument, parse_json(std::string(100'000, '[')), "deep");
  CHECK_THROWS(std::invalid_argument, parse_json(std::string(5000, '9')), "long");
  CHECK_THROWS(std::invalid_argument, parse_json(std::string_view("1\0", 2)), "a NUL");
}

TEST(a_model_file_is_read) {
  const std::vector<std::byte> bytes = small_model_bytes();
  const ModelFile file{std::span<const std::byte>(bytes)};
  CHECK(file.config().scale == 2);
  CHECK(file.config().network.channels == 8);
  CHECK(file.config().sampling.steps == 2 && file.config().sampling.trailing);
  CHECK(file.config().qualities.at("fast").back_projections == 2);
  CHECK(file.config().qualities.at("fast").mean_weight == 0);
  CHECK(file.config().qualities.at("balanced").mean_weight == 0.5);
  CHECK(!file.config().diffusion.clip);
  CHECK(file.tensors().floats("stem.bias", {8}) != nullptr);
}

TEST(a_model_file_cut_anywhere_is_refused) {
  const std::vector<std::byte> bytes = small_model_bytes();
  for (std::size_t size = 0; size < bytes.size(); size += 1 + size / 40)
    CHECK_THAT(refused({bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size)}),
               text("bytes", static_cast<double>(size)));
  CHECK(!refused(bytes));
}

// Sanitizers watch; what is read in spite of the damage is as good as any other file.
TEST(damaged_model_files_do_no_harm) {
  Random random(3);
  const std::vector<std::byte> good = small_model_bytes();
  std::uint64_t header = 0;
  std::memcpy(&header, good.data(), sizeof header);
  int count = 0;
  for (int round = 0; round < 500; ++round) {
    std::vector<std::byte> bytes = good;
    for (int change = random.below(3); change >= 0; --change)
      bytes[random.bits() % (sizeof header + header)] = static_cast<std::byte>(
          round % 2 ? random.below(256) : "0123456789[]{}\",:-e"[random.below(19)]);
    count += refused(bytes);
  }
  CHECK_THAT(count > 375, text("refused", count));
}

}  // namespace bidiffsr::tests
