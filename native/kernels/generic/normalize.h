// Normalization: a scale and a shift a channel, SiLU, and the sums that the next one needs.

template <Silu Then, class Element>
inline void normalize(const Element* x, float* output, int width, int channels, const float* scale,
                      const float* shift) {
  // The next row follows this one, and memory is further away than the hardware looks ahead.
  const std::ptrdiff_t row = static_cast<std::ptrdiff_t>(width) * channels;
  for (int pixel = 0; pixel < width; ++pixel, x += channels, output += channels)
    for (int c = 0; c < channels; c += kLanes) {
      __builtin_prefetch(x + c + row);
      Float z = load(x + c) * load(scale + c) + load(shift + c);
      if constexpr (Then == Silu::kExact) z = z * reciprocal(exponential(-z) + 1.0f);
      if constexpr (Then == Silu::kRough)
        z = z * rough_reciprocal(rough_power_of_two(z * -1.44269504f) + 1.0f);
      store(output + c, z);
    }
}

template <class Element>
void normalize_row(const Element* x, float* output, int width, int channels, const float* scale,
                   const float* shift, Silu silu) {
  if (silu == Silu::kRough)
    normalize<Silu::kRough>(x, output, width, channels, scale, shift);
  else if (silu == Silu::kExact)
    normalize<Silu::kExact>(x, output, width, channels, scale, shift);
  else
    normalize<Silu::kNone>(x, output, width, channels, scale, shift);
}

void sum_row(const float* x, int width, int channels, float* sum, float* square) {
  for (int c = 0; c < channels; c += kLanes) {
    Float s = load(sum + c), q = load(square + c);
    const float* pixel = x + c;
    for (int i = 0; i < width; ++i, pixel += channels) {
      const Float value = load(pixel);
      s = s + value;
      q = q + value * value;
    }
    store(sum + c, s);
    store(square + c, q);
  }
}
