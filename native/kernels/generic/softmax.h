// A block of the streaming softmax of attention.

void softmax_block(float* scores, std::ptrdiff_t stride, int rows, int columns, float* maxima,
                   float* sums, float* decay) {
  for (int row = 0; row < rows; ++row, scores += stride) {
    // Columns beyond the last whole vector are handled one by one.
    const int whole = columns - columns % kLanes;
    float top = maxima[row];
    Float tops = splat(top);
    for (int i = 0; i < whole; i += kLanes) tops = maximum(tops, load(scores + i));
    for (int i = 0; i < kLanes; ++i) top = tops[i] > top ? tops[i] : top;
    for (int i = whole; i < columns; ++i) top = scores[i] > top ? scores[i] : top;
    decay[row] = exponential(splat(maxima[row] - top))[0];
    Float sum = {};
    for (int i = 0; i < whole; i += kLanes) {
      const Float p = exponential(load(scores + i) - top);
      store(scores + i, p);
      sum = sum + p;
    }
    float total = sums[row] * decay[row];
    for (int i = 0; i < kLanes; ++i) total += sum[i];
    for (int i = whole; i < columns; ++i) {
      scores[i] = exponential(splat(scores[i] - top))[0];
      total += scores[i];
    }
    maxima[row] = top;
    sums[row] = total;
  }
}

void scale_row(float* x, int count, float factor) {
  for (int i = 0; i < count; ++i) x[i] *= factor;
}
