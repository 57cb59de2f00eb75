// The C header over the engine: checks what C cannot, and lets no exception out.
#include "bidiffsr.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <new>
#include <span>
#include <stdexcept>
#include <string>

#include "bidiffsr/kernels.h"
#include "io/model_file.h"
#include "runtime/checked.h"
#include "upscaling/upscaler.h"

struct bidiffsr_model {
  bidiffsr_model(const bidiffsr::ModelFile& file, bool fast, const std::string& kernel, int threads)
      : upscaler(file, fast, kernel, threads), kernel(upscaler.engine().kernel()) {}

  bidiffsr::Upscaler upscaler;
  std::string kernel;
};

namespace {

using bidiffsr::Engine;
using bidiffsr::PictureForm;
using bidiffsr::UnsoundResult;

struct Cancelled : std::exception {};
struct BadModel : std::runtime_error {
  using std::runtime_error::runtime_error;
};

thread_local char last_message[512] = "";

bidiffsr_status failed(bidiffsr_status status, const char* message) noexcept {
  std::snprintf(last_message, sizeof last_message, "%s", message);
  // One line, whatever a file or the caller had in it.
  for (char* letter = last_message; *letter; ++letter)
    if (static_cast<unsigned char>(*letter) < 0x20) *letter = '?';
  return status;
}

// Runs `body` and says by status and message what it throws.
template <class Body>
bidiffsr_status guarded(const Body& body) noexcept {
  try {
    body();
    return BIDIFFSR_OK;
  } catch (const Cancelled&) {
    return failed(BIDIFFSR_CANCELLED, "cancelled");
  } catch (const BadModel& error) {
    return failed(BIDIFFSR_BAD_MODEL, error.what());
  } catch (const UnsoundResult& error) {
    return failed(BIDIFFSR_UNSOUND, error.what());
  } catch (const std::invalid_argument& error) {
    return failed(BIDIFFSR_BAD_ARGUMENT, error.what());
  } catch (const std::length_error&) {
    return failed(BIDIFFSR_NO_MEMORY, "too large for any memory: cut the picture into parts");
  } catch (const std::bad_alloc&) {
    return failed(BIDIFFSR_NO_MEMORY,
                  "the memory does not suffice: allow more, or choose smaller tiles or pictures");
  } catch (const std::exception& error) {
    return failed(BIDIFFSR_FAILED, error.what());
  } catch (...) {
    return failed(BIDIFFSR_FAILED, "failed for an unknown reason");
  }
}

void require(const void* pointer, const char* name) {
  if (!pointer) throw std::invalid_argument(std::string(name) + ": is NULL");
}

void require_bytes(const char* name, std::size_t found, std::size_t expected) {
  if (found < expected)
    throw std::invalid_argument(std::string(name) + ": has " + std::to_string(found) +
                                ", expected at least " + std::to_string(expected));
}

void require_even(const char* name, const PictureForm& form, const void* samples) {
  if (form.bits == 16 && reinterpret_cast<std::uintptr_t>(samples) % 2)
    throw std::invalid_argument(std::string(name) +
                                ": begins at an odd address, which samples of 16 bits must not");
}

PictureForm form_of(const bidiffsr_picture& picture) {
  return {picture.height, picture.width, picture.channels, picture.bits};
}

// Calls the caller's function now and then; throws Cancelled where it says so.
class Reporter {
 public:
  Reporter(bidiffsr_progress progress, void* user) : progress_(progress), user_(user) {}
  void operator()(double done) {
    const auto now = std::chrono::steady_clock::now();
    if (done == last_done_ && now - last_ < kEvery) return;
    last_ = now;
    last_done_ = done;
    if (progress_(user_, done)) throw Cancelled();
  }

 private:
  static constexpr std::chrono::milliseconds kEvery{20};
  bidiffsr_progress progress_;
  void* user_;
  double last_done_ = -1;
  std::chrono::steady_clock::time_point last_{};
};

std::unique_ptr<bidiffsr_model> make_model(std::span<const std::byte> bytes,
                                           const bidiffsr_model_options& options) {
  const char* kernel = options.kernel ? options.kernel : std::getenv("BIDIFFSR_KERNEL");
  const std::string name = kernel ? kernel : "";
  // What the caller asks for is checked apart from what the file holds.
  bidiffsr::choose_kernel(name);
  if (options.threads < 0 || options.threads > 1024)
    throw std::invalid_argument("threads: got " + std::to_string(options.threads) +
                                ", expected 0 to 1024");
  if (options.exact != 0 && options.exact != 1)
    throw std::invalid_argument("exact: got " + std::to_string(options.exact) +
                                ", expected 0 or 1");
  try {
    const bidiffsr::ModelFile file(bytes);
    return std::make_unique<bidiffsr_model>(file, !options.exact, name, options.threads);
  } catch (const std::invalid_argument& error) {
    throw BadModel(error.what());
  } catch (const std::length_error& error) {
    throw BadModel(error.what());
  }
}

bidiffsr_model_options given(const bidiffsr_model_options* options) {
  return options ? *options : bidiffsr_model_options{};
}

}  // namespace

const char* bidiffsr_message(void) { return last_message; }

const char* bidiffsr_version(void) { return BIDIFFSR_VERSION; }

bidiffsr_status bidiffsr_load(const char* path, const bidiffsr_model_options* options,
                              bidiffsr_model** model) {
  if (model) *model = nullptr;
  return guarded([&] {
    require(model, "model");
    require(path, "path");
    std::vector<std::byte> bytes;
    try {
      bytes = bidiffsr::read_file(path);
    } catch (const std::invalid_argument& error) {
      throw BadModel(error.what());
    }
    try {
      *model = make_model(bytes, given(options)).release();
    } catch (const BadModel& error) {
      throw BadModel(bidiffsr::shortened(path) + ": " + error.what());
    }
  });
}

bidiffsr_status bidiffsr_load_memory(const void* bytes, size_t size,
                                     const bidiffsr_model_options* options,
                                     bidiffsr_model** model) {
  if (model) *model = nullptr;
  return guarded([&] {
    require(model, "model");
    require(bytes, "bytes");
    *model = make_model({static_cast<const std::byte*>(bytes), size}, given(options)).release();
  });
}

void bidiffsr_free(bidiffsr_model* model) { delete model; }

int bidiffsr_scale(const bidiffsr_model* model) { return model ? model->upscaler.scale() : 0; }
int bidiffsr_timesteps(const bidiffsr_model* model) {
  return model ? model->upscaler.timesteps() : 0;
}
int bidiffsr_size_multiple(const bidiffsr_model* model) {
  return model ? model->upscaler.engine().size_multiple() : 0;
}
int bidiffsr_threads(const bidiffsr_model* model) {
  return model ? model->upscaler.engine().threads() : 0;
}
const char* bidiffsr_kernel(const bidiffsr_model* model) {
  return model ? model->kernel.c_str() : "";
}

bidiffsr_status bidiffsr_result(const bidiffsr_model* model, const bidiffsr_picture* source,
                                double scale, bidiffsr_picture* result) {
  return guarded([&] {
    require(model, "model");
    require(source, "source");
    require(result, "result");
    const PictureForm form = model->upscaler.result_form(form_of(*source), scale);
    *result = {form.height, form.width, form.channels, form.bits};
  });
}

bidiffsr_status bidiffsr_upscale(bidiffsr_model* model, const bidiffsr_picture* source,
                                 const void* samples, size_t size,
                                 const bidiffsr_upscale_options* options, void* result,
                                 size_t result_size) {
  return guarded([&] {
    require(model, "model");
    require(source, "source");
    require(samples, "samples");
    require(result, "result");
    const bidiffsr_upscale_options asked = options ? *options : bidiffsr_upscale_options{};
    const PictureForm form = form_of(*source);
    const PictureForm made = model->upscaler.result_form(form, asked.scale);
    require_bytes("size", size, form.bytes());
    require_bytes("result_size", result_size, made.bytes());
    require_even("samples", form, samples);
    require_even("result", made, result);
    bidiffsr::UpscaleOptions to;
    if (asked.quality) to.quality = asked.quality;
    to.steps = asked.steps;
    to.seed = asked.seed;
    to.sample = asked.sample;
    to.scale = asked.scale;
    to.tile = asked.tile;
    to.max_memory = asked.max_memory;
    Reporter report(asked.progress, asked.user);
    if (asked.progress) to.at = [&](double done) { report(done); };
    model->upscaler.upscale(form, samples, to, result);
  });
}

bidiffsr_status bidiffsr_predict(bidiffsr_model* model, const float* x_t, const float* cond,
                                 const int64_t* timesteps, size_t count, int height, int width,
                                 float* prediction, size_t floats, bidiffsr_progress progress,
                                 void* user) {
  return guarded([&] {
    require(model, "model");
    require(x_t, "x_t");
    require(cond, "cond");
    require(timesteps, "timesteps");
    require(prediction, "prediction");
    if (height < 1 || width < 1)
      throw std::invalid_argument("size " + std::to_string(width) + "x" + std::to_string(height) +
                                  ": both must be positive");
    require_bytes("floats", floats, bidiffsr::checked_product(3, height, width, count));
    Reporter report(progress, user);
    const Engine::Poll poll = progress ? Engine::Poll([&] { report(0); }) : Engine::Poll();
    model->upscaler.engine().predict(
        {x_t, cond, timesteps, static_cast<std::int64_t>(count), height, width}, prediction, poll);
  });
}

bidiffsr_status bidiffsr_scratch_bytes(bidiffsr_model* model, int height, int width,
                                       size_t* bytes) {
  return guarded([&] {
    require(model, "model");
    require(bytes, "bytes");
    *bytes = model->upscaler.engine().scratch_bytes(height, width);
  });
}

void bidiffsr_release_memory(bidiffsr_model* model) {
  if (model) model->upscaler.engine().release_memory();
}
