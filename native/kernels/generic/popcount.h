// Counts differing bits word by word: exclusive or, then a population count. The `Counter` of
// `generic/all.h` for sets that have one. Over these primitives of `Isa`:
//
//   Words           vector of kWordLanes 64-bit words; load, broadcast
//   Partial, Total  running counts of one bits; kFlush words fit into a Partial
//   count, flush, narrow (two Totals to one Int)
//   kPixels         pixels of a tile, at most kPixelSlack
//
// It is included inside the anonymous namespace of each such file, after `Isa`.

struct Counter {
  static constexpr int kPixels = Isa::kPixels;
  static constexpr int kPanels = 1;
  static constexpr int kWeightWords = 1;
  static constexpr int kVectors = kPanel / Isa::kLanes;
  static constexpr int kWordVectors = kPanel / Isa::kWordLanes;
  static_assert(kWordVectors == 2 * kVectors);

  static void arrange(const std::uint64_t* signs, int panels, int words, std::uint64_t* weights) {
    __builtin_memcpy(weights, signs,
                     sizeof *signs * static_cast<std::size_t>(panels * words * kPanel));
  }

  static int pixels(const BinaryRow& job) { return job.width; }
  template <int Kernel>
  void prepare(const BinaryRow&, int, int) {}

  template <int Kernel>
  inline void counts(const BinaryRow& job, int x, int panel,
                     typename Isa::Int (&counts)[kPixels][kVectors]) const {
    Running running;
    if constexpr (Kernel == 0) {
      const std::uint64_t* weights =
          job.weights + static_cast<std::ptrdiff_t>(panel) * job.window_words * kPanel;
      const std::uint8_t* window = job.window + x * job.window_step;
      const auto at = [&](int p, int word) {
        std::uint64_t bits;
        __builtin_memcpy(&bits, window + p * job.window_step + 8 * word, sizeof bits);
        return bits;
      };
      int word = 0;
      for (; word < job.window_words - 1; ++word, weights += kPanel)
        running.add(weights, [&](int p) { return at(p, word); });
      running.add(weights, [&](int p) { return at(p, word) & job.window_mask; });
    } else {
      const std::uint64_t* weights =
          job.weights + static_cast<std::ptrdiff_t>(panel) * Kernel * Kernel * job.words * kPanel;
      const std::ptrdiff_t pixel = static_cast<std::ptrdiff_t>(job.stride) * job.words;
      for (int row = 0; row < Kernel; ++row) {
        const std::uint64_t* bits = job.rows[row] + x * pixel;
        for (int word = 0; word < Kernel * job.words;
             ++word, weights += kPanel)  // taps are neighbours
          running.add(weights, [&](int p) { return bits[word + p * pixel]; });
      }
    }
    running.totals(counts);
  }

  // The loop of `peak_binary`.
  struct Ceiling {
    static constexpr int kCounters = 6;  // enough to hide a count's latency, few enough for
                                         // 16 registers
    static constexpr double kProducts = 64.0 * Isa::kWordLanes * kCounters;
    typename Isa::Partial counters[kCounters] = {};
    typename Isa::Words bits[kCounters];
    Ceiling() {
      for (int c = 0; c < kCounters; ++c)
        bits[c] = Isa::broadcast(0x9e3779b97f4a7c15u * static_cast<std::uint64_t>(c + 1));
    }
    inline void step(int i) {
      const typename Isa::Words other = Isa::broadcast(static_cast<std::uint64_t>(i));
#pragma GCC unroll 16
      for (int c = 0; c < kCounters; ++c) counters[c] = Isa::count(counters[c], bits[c] ^ other);
    }
  };

 private:
  // Differing bits of kPixels pixels and one panel of outputs so far.
  struct Running {
    typename Isa::Partial partial[kPixels][kWordVectors] = {};
    typename Isa::Total total[kPixels][kWordVectors] = {};
    int left = Isa::kFlush;

    // One word of each pixel, activation(pixel), against one of each output.
    template <class Activation>
    inline void add(const std::uint64_t* weights, const Activation& activation) {
      typename Isa::Words w[kWordVectors];
#pragma GCC unroll 16
      for (int v = 0; v < kWordVectors; ++v) w[v] = Isa::load(weights + v * Isa::kWordLanes);
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p) {
        const typename Isa::Words a = Isa::broadcast(activation(p));
#pragma GCC unroll 16
        for (int v = 0; v < kWordVectors; ++v) partial[p][v] = Isa::count(partial[p][v], a ^ w[v]);
      }
      if constexpr (Isa::kFlush > 0) {
        if (--left == 0) {
          left = Isa::kFlush;
          for (int p = 0; p < kPixels; ++p)
            for (int v = 0; v < kWordVectors; ++v) {
              total[p][v] = Isa::flush(total[p][v], partial[p][v]);
              partial[p][v] = typename Isa::Partial{};
            }
        }
      }
    }
    inline void totals(typename Isa::Int (&counts)[kPixels][kVectors]) const {
#pragma GCC unroll 16
      for (int p = 0; p < kPixels; ++p)
#pragma GCC unroll 16
        for (int v = 0; v < kVectors; ++v)
          counts[p][v] = Isa::narrow(Isa::flush(total[p][2 * v], partial[p][2 * v]),
                                     Isa::flush(total[p][2 * v + 1], partial[p][2 * v + 1]));
    }
  };
};
