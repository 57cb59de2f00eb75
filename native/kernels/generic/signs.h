// Signs of a row, packed into words.

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
