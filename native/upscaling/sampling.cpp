#include "upscaling/sampling.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <new>
#include <optional>

#include "upscaling/diffusion.h"
#include "upscaling/noise.h"

namespace bidiffsr {

namespace {

constexpr int kColours = 3;

class Chain {
 public:
  Chain(Engine& engine, const Planes& cond, const Sampling& sampling, const ForBands& for_bands,
        const Engine::Poll& poll, const Finished& finished)
      : engine_(engine),
        cond_(cond),
        sampling_(sampling),
        for_bands_(for_bands),
        poll_(poll),
        finished_(finished),
        tiling_(sampling.tiling),
        variable_(kColours, cond.height(), cond.width()),
        prediction_(kColours, cond.height(), cond.width()) {}

  Planes run() {
    const std::vector<Transition> chain =
        chain_of(sampling_.diffusion.schedule, sampling_.settings);
    if (start_noise_counts(chain[0])) draw_start();
    for (const Transition& step : chain) {
      predict(step);
      update(step);
    }
    to_picture();
    return std::move(variable_);
  }

 private:
  // Whether the variable at the first level reaches the result.
  bool start_noise_counts(const Transition& first) const {
    const bool unseen = first.here.signal == 0 && sampling_.diffusion.scaled_input;
    return !(unseen && first.there.noise == 0);
  }

  void draw_row(Planes& to, int y, std::uint32_t stream) const {
    normal_noise_row({sampling_.seed, sampling_.sample, stream}, static_cast<std::uint32_t>(y),
                     to.width(), static_cast<float>(sampling_.settings.noise_scale),
                     {to.row(0, y), to.row(1, y), to.row(2, y)});
  }
  void draw_start() {
    for_bands_(variable_.height(), [&](int first, int last) {
      for (int y = first; y < last; ++y) draw_row(variable_, y, 0);
    });
  }

  // The network's prediction of the whole picture, tile by tile, in smaller ones where the memory
  // runs out.
  void predict(const Transition& step) {
    for (;;) {
      try {
        predict_tiles(step);
        return;
      } catch (const std::bad_alloc&) {
        const int largest = std::max(tiling_.height(), tiling_.width());
        const int least = least_tile(sampling_.multiple);
        if (largest <= least) throw;
        tiling_ = lay_tiles(cond_.height(), cond_.width(), std::max(largest / 2, least),
                            sampling_.multiple);
      }
    }
  }

  void predict_tiles(const Transition& step) {
    const int height = tiling_.height(), width = tiling_.width();
    Planes x(kColours, height, width), cond(kColours, height, width);
    Planes result(kColours, height, width);
    prediction_.clear();
    const float signal =
        sampling_.diffusion.scaled_input ? static_cast<float>(step.here.signal) : 1.0f;
    int done = 0;
    for (const Span& rows : tiling_.rows)
      for (const Span& columns : tiling_.columns) {
        cut(rows, columns, signal, x, cond);
        const std::int64_t timestep = step.timestep;
        engine_.predict({x.row(0, 0), cond.row(0, 0), &timestep, 1, height, width},
                        result.row(0, 0), poll_);
        add(rows, columns, result);
        ++done;
        finished_(step.index * tiling_.count() + done, sampling_.settings.steps * tiling_.count());
      }
  }

  void cut(const Span& rows, const Span& columns, float signal, Planes& x, Planes& cond) const {
    for (int c = 0; c < kColours; ++c)
      for (int y = 0; y < rows.length(); ++y) {
        const float* from = variable_.row(c, rows.start + y) + columns.start;
        for (int i = 0; i < columns.length(); ++i) x.row(c, y)[i] = from[i] * signal;
        std::copy_n(cond_.row(c, rows.start + y) + columns.start, columns.length(), cond.row(c, y));
      }
  }

  void add(const Span& rows, const Span& columns, const Planes& result) {
    for (int c = 0; c < kColours; ++c)
      for (int y = 0; y < rows.length(); ++y) {
        const float weight = rows.weights[static_cast<std::size_t>(y)];
        const float* from = result.row(c, y);
        float* to = prediction_.row(c, rows.start + y) + columns.start;
        for (int i = 0; i < columns.length(); ++i)
          to[i] += from[i] * weight * columns.weights[static_cast<std::size_t>(i)];
      }
  }

  void update(const Transition& step) {
    const Interpreter interpret(sampling_.diffusion, step.here);
    const Update update(sampling_.settings, step);
    const bool keeps = sampling_.settings.keeps_previous();
    if (keeps && !previous_) previous_.emplace(kColours, cond_.height(), cond_.width());
    const bool keeps_first = sampling_.settings.keeps_first();
    if (keeps_first && !first_) first_.emplace(kColours, cond_.height(), cond_.width());
    const auto mean_weight = static_cast<float>(sampling_.settings.mean_weight);
    for_bands_(variable_.height(), [&](int first, int last) {
      Planes drawn(kColours, 1, variable_.width());
      for (int y = first; y < last; ++y) {
        if (update.fresh > 0) draw_fresh(drawn, y, step.index);
        for (int c = 0; c < kColours; ++c) {
          float* x = variable_.row(c, y);
          const float* prediction = prediction_.row(c, y);
          float* previous = keeps ? previous_->row(c, y) : nullptr;
          float* first_clean = keeps_first ? first_->row(c, y) : nullptr;
          for (int i = 0; i < variable_.width(); ++i) {
            Interpreted now = interpret(prediction[i], x[i]);
            if (first_clean && step.index == 0) first_clean[i] = now.clean;
            if (first_clean && step.is_last())
              now.clean += mean_weight * (first_clean[i] - now.clean);
            x[i] = update(x[i], now, previous ? previous[i] : 0.0f, drawn.row(c, 0)[i]);
            if (previous) previous[i] = now.clean;
          }
        }
      }
    });
  }
  void draw_fresh(Planes& drawn, int y, int index) const {
    normal_noise_row({sampling_.seed, sampling_.sample, static_cast<std::uint32_t>(1 + index)},
                     static_cast<std::uint32_t>(y), drawn.width(),
                     static_cast<float>(sampling_.settings.noise_scale),
                     {drawn.row(0, 0), drawn.row(1, 0), drawn.row(2, 0)});
  }

  void to_picture() {
    const DiffusionConfig& diffusion = sampling_.diffusion;
    const auto unit = static_cast<float>(diffusion.residual ? diffusion.residual_scale : 1.0);
    std::atomic<bool> finite{true};
    for_bands_(variable_.height(), [&](int first, int last) {
      bool all = true;
      for (int y = first; y < last; ++y)
        for (int c = 0; c < kColours; ++c) {
          float* x = variable_.row(c, y);
          const float* cond = cond_.row(c, y);
          for (int i = 0; i < variable_.width(); ++i) {
            const float value = (diffusion.residual ? cond[i] : 0.0f) + unit * x[i];
            all = all && std::isfinite(value);
            x[i] = std::clamp(value, 0.0f, 1.0f);
          }
        }
      if (!all) finite = false;
    });
    if (!finite)
      throw UnsoundResult("the network's result holds NaN or infinity; the model is unsound");
  }

  Engine& engine_;
  const Planes& cond_;
  const Sampling& sampling_;
  const ForBands& for_bands_;
  const Engine::Poll& poll_;
  const Finished& finished_;
  Tiling tiling_;
  Planes variable_, prediction_;
  std::optional<Planes> previous_;  // the clean variable of the step before
  std::optional<Planes> first_;     // that of the first step
};

}  // namespace

Planes sample_picture(Engine& engine, const Planes& cond, const Sampling& sampling,
                      const ForBands& for_bands, const Engine::Poll& poll,
                      const Finished& finished) {
  return Chain(engine, cond, sampling, for_bands, poll, finished).run();
}

}  // namespace bidiffsr
