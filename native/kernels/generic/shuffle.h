// Channels of a row to other places: split, pixel shuffle and its reverse.

void split_row(const float* x, std::ptrdiff_t stride, int width, int half, float* even, float* odd,
               std::ptrdiff_t output_stride) {
  for (int pixel = 0; pixel < width; ++pixel) {
    for (int c = 0; c < half; ++c) even[c] = x[2 * c];
    for (int c = 0; c < half; ++c) odd[c] = x[2 * c + 1];
    x += stride;
    even += output_stride;
    odd += output_stride;
  }
}

void unshuffle_rows(const float* top, const float* bottom, std::ptrdiff_t stride, int width_out,
                    int channels, float* output, std::ptrdiff_t output_stride) {
  for (int pixel = 0; pixel < width_out; ++pixel) {
    for (int c = 0; c < channels; ++c) {
      output[4 * c + 0] = top[c];
      output[4 * c + 1] = top[stride + c];
      output[4 * c + 2] = bottom[c];
      output[4 * c + 3] = bottom[stride + c];
    }
    top += 2 * stride;
    bottom += 2 * stride;
    output += output_stride;
  }
}

void shuffle_rows(const float* x, std::ptrdiff_t stride, int width_in, int channels, float* top,
                  float* bottom, std::ptrdiff_t output_stride) {
  for (int pixel = 0; pixel < width_in; ++pixel) {
    for (int c = 0; c < channels; ++c) {
      top[c] = x[4 * c + 0];
      top[output_stride + c] = x[4 * c + 1];
      bottom[c] = x[4 * c + 2];
      bottom[output_stride + c] = x[4 * c + 3];
    }
    x += stride;
    top += 2 * output_stride;
    bottom += 2 * output_stride;
  }
}
