// The C header: what it refuses, threads, cancelling, and pictures of every form.
#include <algorithm>
#include <cstring>
#include <memory>
#include <thread>

#include "bidiffsr.h"
#include "check.h"
#include "model_bytes.h"

namespace bidiffsr::tests {

namespace {

struct Free {
  void operator()(bidiffsr_model* model) const { bidiffsr_free(model); }
};
using Model = std::unique_ptr<bidiffsr_model, Free>;

Model load(int threads = 1) {
  const std::vector<std::byte> bytes = small_model_bytes();
  bidiffsr_model_options options{};
  options.threads = threads;
  bidiffsr_model* model = nullptr;
  const bidiffsr_status status = bidiffsr_load_memory(bytes.data(), bytes.size(), &options, &model);
  CHECK_THAT(status == BIDIFFSR_OK, bidiffsr_message());
  return Model(model);
}

std::vector<std::uint8_t> noise(const bidiffsr_picture& form) {
  Random random(1);
  std::vector<std::uint8_t> bytes(
      static_cast<std::size_t>(form.height * form.width * form.channels * form.bits / 8));
  for (auto& byte : bytes) byte = static_cast<std::uint8_t>(random.bits());
  return bytes;
}

std::size_t bytes_of(const bidiffsr_picture& form) {
  return static_cast<std::size_t>(form.height) * static_cast<std::size_t>(form.width) *
         static_cast<std::size_t>(form.channels * form.bits / 8);
}

std::vector<std::uint8_t> upscale(bidiffsr_model* model, const bidiffsr_picture& form,
                                  const bidiffsr_upscale_options& options) {
  const std::vector<std::uint8_t> samples = noise(form);
  bidiffsr_picture made{};
  CHECK_THAT(bidiffsr_result(model, &form, options.scale, &made) == BIDIFFSR_OK,
             bidiffsr_message());
  // Heap memory of just this size, whose end sanitizers watch.
  std::vector<std::uint8_t> result(bytes_of(made));
  const bidiffsr_status status = bidiffsr_upscale(model, &form, samples.data(), samples.size(),
                                                  &options, result.data(), result.size());
  CHECK_THAT(status == BIDIFFSR_OK, bidiffsr_message());
  return result;
}

int cancel(void* calls, double) { return ++*static_cast<int*>(calls) > 2; }

int record(void* seen, double done) {
  static_cast<std::vector<double>*>(seen)->push_back(done);
  return 0;
}

}  // namespace

TEST(c_pictures_of_every_form_are_upscaled) {
  const Model model = load();
  CHECK(bidiffsr_scale(model.get()) == 2 && bidiffsr_timesteps(model.get()) == 4);
  for (const int channels : {1, 3, 4})
    for (const int bits : {8, 16})
      for (const double scale : {0.0, 1.0, 1.3})
        for (const auto& [height, width] : {std::pair{1, 1}, {5, 9}, {16, 3}}) {
          const bidiffsr_picture form{height, width, channels, bits};
          bidiffsr_upscale_options options{};
          options.scale = scale;
          const auto result = upscale(model.get(), form, options);
          const bool varies = std::adjacent_find(result.begin(), result.end(),
                                                 std::not_equal_to<>()) != result.end();
          CHECK_THAT(varies || height * width == 1, text("channels", channels));
        }
}

TEST(c_threads_and_tiles_share_a_model) {
  const Model model = load(3), alone = load(1);
  const bidiffsr_picture form{90, 70, 3, 8};
  bidiffsr_upscale_options options{};
  options.quality = "fast";
  options.tile = 64;
  const auto expected = upscale(alone.get(), form, options);
  std::vector<std::vector<std::uint8_t>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results)
    threads.emplace_back([&] { result = upscale(model.get(), form, options); });
  for (auto& thread : threads) thread.join();
  for (const auto& result : results) CHECK(result == expected);
  bidiffsr_release_memory(model.get());
  CHECK(upscale(model.get(), form, options) == expected);
}

TEST(c_calls_are_cancelled_and_say_how_far_they_are) {
  const Model model = load();
  const bidiffsr_picture form{40, 40, 3, 8};
  const auto samples = noise(form);
  std::vector<std::uint8_t> result(samples.size() * 4);
  int calls = 0;
  bidiffsr_upscale_options options{};
  options.progress = cancel;
  options.user = &calls;
  CHECK(bidiffsr_upscale(model.get(), &form, samples.data(), samples.size(), &options,
                         result.data(), result.size()) == BIDIFFSR_CANCELLED);
  CHECK(calls == 3);
  std::vector<double> seen;
  options.progress = record;
  options.user = &seen;
  CHECK(bidiffsr_upscale(model.get(), &form, samples.data(), samples.size(), &options,
                         result.data(), result.size()) == BIDIFFSR_OK);
  CHECK(seen.size() >= 4 && seen.front() == 0 && seen.back() == 1);
  CHECK(std::is_sorted(seen.begin(), seen.end()));
}

TEST(c_arguments_out_of_range_are_refused) {
  const Model model = load();
  const bidiffsr_picture form{4, 6, 3, 8};
  const auto samples = noise(form);
  std::vector<std::uint8_t> result(samples.size() * 4);
  const auto status = [&](const bidiffsr_picture& asked, const bidiffsr_upscale_options& options,
                          std::size_t size, std::size_t result_size) {
    return bidiffsr_upscale(model.get(), &asked, samples.data(), size, &options, result.data(),
                            result_size);
  };
  const auto refuses = [&](const bidiffsr_picture& asked, const bidiffsr_upscale_options& options,
                           const char* name) {
    const bool refused =
        status(asked, options, samples.size(), result.size()) == BIDIFFSR_BAD_ARGUMENT;
    CHECK_THAT(refused && std::strstr(bidiffsr_message(), name), bidiffsr_message());
  };
  CHECK(status(form, {}, samples.size(), result.size()) == BIDIFFSR_OK);
  CHECK(status(form, {}, samples.size() - 1, result.size()) == BIDIFFSR_BAD_ARGUMENT);
  CHECK(status(form, {}, samples.size(), result.size() - 1) == BIDIFFSR_BAD_ARGUMENT);
  for (const int side : {0, -1, 1 << 20, INT32_MAX, INT32_MIN}) {
    refuses({side, 6, 3, 8}, {}, "picture");
    refuses({4, side, 3, 8}, {}, "picture");
  }
  for (const int channels : {0, -3, 2, 5}) refuses({4, 6, channels, 8}, {}, "channels");
  for (const int bits : {0, -8, 1, 12, 32}) refuses({4, 6, 3, bits}, {}, "bits");
  const bidiffsr_picture deep{1, 2, 1, 16};
  CHECK(bidiffsr_upscale(model.get(), &deep, samples.data() + 1, 4, nullptr, result.data(), 64) ==
        BIDIFFSR_BAD_ARGUMENT);
  bidiffsr_upscale_options options{};
  for (const double scale : {-1.0, 2.1, 1e-9, 1e300, double(NAN), double(INFINITY)}) {
    options.scale = scale;
    refuses(form, options, "scale");
  }
  options = {};
  for (const char* quality : {"best", "", "FAST", "a\nb"}) {
    options.quality = quality;
    if (*quality) refuses(form, options, "quality");
    CHECK(!std::strchr(bidiffsr_message(), '\n'));
  }
  options = {};
  for (const int steps : {-1, 5, INT32_MAX}) {
    options.steps = steps;
    refuses(form, options, "steps");
  }
  options = {};
  for (const int tile : {-1, 1, 63}) {
    options.tile = tile;
    refuses(form, options, "tile");
  }
  options = {};
  options.max_memory = 1000;
  CHECK(status(form, options, samples.size(), result.size()) == BIDIFFSR_NO_MEMORY);
}

TEST(c_null_is_refused_wherever_it_stands) {
  const Model model = load();
  const bidiffsr_picture form{1, 1, 1, 8};
  bidiffsr_picture made{};
  std::uint8_t sample = 0, result[4];
  std::size_t bytes = 0;
  bidiffsr_model* other = nullptr;
  const bidiffsr_status statuses[] = {
      bidiffsr_load(nullptr, nullptr, &other),
      bidiffsr_load("x", nullptr, nullptr),
      bidiffsr_load_memory(nullptr, 5, nullptr, &other),
      bidiffsr_result(nullptr, &form, 0, &made),
      bidiffsr_result(model.get(), nullptr, 0, &made),
      bidiffsr_result(model.get(), &form, 0, nullptr),
      bidiffsr_upscale(nullptr, &form, &sample, 1, nullptr, result, 4),
      bidiffsr_upscale(model.get(), nullptr, &sample, 1, nullptr, result, 4),
      bidiffsr_upscale(model.get(), &form, nullptr, 1, nullptr, result, 4),
      bidiffsr_upscale(model.get(), &form, &sample, 1, nullptr, nullptr, 4),
      bidiffsr_scratch_bytes(nullptr, 8, 8, &bytes),
      bidiffsr_scratch_bytes(model.get(), 8, 8, nullptr),
      bidiffsr_scratch_bytes(model.get(), 8, 7, &bytes)};
  for (const bidiffsr_status status : statuses) CHECK(status == BIDIFFSR_BAD_ARGUMENT);
  bidiffsr_free(nullptr);
  bidiffsr_release_memory(nullptr);
  CHECK(bidiffsr_scale(nullptr) == 0 && !*bidiffsr_kernel(nullptr));
}

TEST(c_predicts_within_the_memory_it_is_given) {
  const Model model = load();
  const int side = 8;
  const std::size_t floats = 2 * 3 * side * side;
  Random random(2);
  const std::vector<float> x = random.floats(floats), cond = random.floats(floats, 0, 1);
  const std::int64_t timesteps[] = {0, 3};
  std::vector<float> prediction(floats);
  const auto predict = [&](std::size_t count, int height, int width, std::size_t size) {
    return bidiffsr_predict(model.get(), x.data(), cond.data(), timesteps, count, height, width,
                            prediction.data(), size, nullptr, nullptr);
  };
  CHECK(predict(2, side, side, floats) == BIDIFFSR_OK);
  CHECK(std::any_of(prediction.begin(), prediction.end(), [](float v) { return v != 0; }));
  CHECK(predict(2, side, side, floats - 1) == BIDIFFSR_BAD_ARGUMENT);
  CHECK(predict(1, side + 1, side, floats) == BIDIFFSR_BAD_ARGUMENT);
  CHECK(predict(1, -side, side, floats) == BIDIFFSR_BAD_ARGUMENT);
  CHECK(predict(SIZE_MAX, side, side, floats) != BIDIFFSR_OK);
  CHECK(predict(SIZE_MAX / 4, INT32_MAX, INT32_MAX, floats) != BIDIFFSR_OK);
}

TEST(c_loading_says_what_is_wrong) {
  std::vector<std::byte> bytes = small_model_bytes();
  bidiffsr_model* model = reinterpret_cast<bidiffsr_model*>(&bytes);
  bidiffsr_model_options options{};
  CHECK(bidiffsr_load("/nowhere/at/all", nullptr, &model) == BIDIFFSR_BAD_MODEL);
  CHECK(!model && std::strstr(bidiffsr_message(), "/nowhere/at/all"));
  CHECK(bidiffsr_load("/", nullptr, &model) == BIDIFFSR_BAD_MODEL);
  options.kernel = "abacus";
  CHECK(bidiffsr_load_memory(bytes.data(), bytes.size(), &options, &model) ==
        BIDIFFSR_BAD_ARGUMENT);
  CHECK(std::strstr(bidiffsr_message(), "abacus"));
  options = {};
  options.threads = -1;
  CHECK(bidiffsr_load_memory(bytes.data(), bytes.size(), &options, &model) ==
        BIDIFFSR_BAD_ARGUMENT);
  CHECK(bidiffsr_load_memory(bytes.data(), bytes.size() - 1, nullptr, &model) ==
        BIDIFFSR_BAD_MODEL);
  // A message belongs to its thread.
  std::thread([] { CHECK(!*bidiffsr_message()); }).join();
  CHECK(*bidiffsr_message());
}

TEST(c_refuses_tensors_that_are_missing_or_too_many) {
  Random random(7);
  RandomModel complete(random);
  complete.network(small_network());
  bidiffsr_model* model = nullptr;
  const std::vector<std::string> names = complete.names();
  for (std::size_t i = 0; i < names.size(); i += 5) {
    if (names[i].ends_with(".zeros")) continue;
    complete.left_out = {names[i]};
    const auto bytes = model_bytes(complete);
    CHECK_THAT(
        bidiffsr_load_memory(bytes.data(), bytes.size(), nullptr, &model) == BIDIFFSR_BAD_MODEL,
        names[i]);
    // Of a packed weight another part may be the one that is named.
    const std::string part = names[i].substr(0, names[i].rfind('.'));
    CHECK_THAT(std::strstr(bidiffsr_message(), part.c_str()), bidiffsr_message());
  }
  complete.left_out.clear();
  complete.floats("down.0.blocks.0.conv1.gain", {8});
  const auto bytes = model_bytes(complete);
  CHECK(bidiffsr_load_memory(bytes.data(), bytes.size(), nullptr, &model) == BIDIFFSR_BAD_MODEL);
  CHECK_THAT(std::strstr(bidiffsr_message(), "gain"), bidiffsr_message());
}

}  // namespace bidiffsr::tests
