// Signs of a row, packed into words, and magnitudes.

void sign_row(const float* x, std::ptrdiff_t stride, int width, int channels,
              const float* threshold, std::uint64_t* bits, int words) {
  for (int pixel = 0; pixel < width; ++pixel, x += stride, bits += words) {
    for (int word = 0; word < words; ++word) {
      std::uint64_t packed = 0;
      for (int c = word * 64; c < channels && c < word * 64 + 64; c += kLanes)
        packed |= static_cast<std::uint64_t>(Isa::at_least(load(x + c), load(threshold + c)))
                  << (c % 64);
      bits[word] = packed;
    }
  }
}

void magnitude_row(const float* x, std::ptrdiff_t stride, int width, int channels, float* sums) {
  Int lane{};
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  for (int pixel = 0; pixel < width; ++pixel, x += stride) {
    Float sum = {};
    for (int c = 0; c < channels; c += kLanes) {
      const Float value = load(x + c);
      const Float magnitude = value < 0.0f ? -value : value;
      sum = sum + (lane < channels - c ? magnitude : Float{});  // the padding is undefined
    }
    float parts[kLanes];
    store(parts, sum);
    for (int half = kLanes / 2; half > 0; half /= 2)
      for (int i = 0; i < half; ++i) parts[i] += parts[i + half];
    sums[pixel] = parts[0];
  }
}
