// What this CPU could do at best: loops of one operation.

// Opaque to the optimizer: the value might have changed.
template <class T>
inline void hide(T& value) {
  asm volatile("" : "+m"(value));
}

double peak_binary(int rounds) {
  Counter::Ceiling loop;
  hide(loop);
  for (int i = 0; i < rounds; ++i) loop.step(i);
  hide(loop);
  return Counter::Ceiling::kProducts * rounds;
}

template <class Dot>
double peak_of(int rounds) {
  constexpr int kSums = Isa::kRows * (Isa::kPanels > 1 ? Isa::kPanels : kVectors);
  Float sums[kSums] = {};
  Float a = splat(1.0f), b = splat(0.5f);
  hide(a);
  hide(b);
  for (int i = 0; i < rounds; ++i)
#pragma GCC unroll 32
    for (int s = 0; s < kSums; ++s) sums[s] = Dot::add(sums[s], a, b);
  hide(sums);
  return static_cast<double>(Dot::kStep) * kLanes * kSums * rounds;
}

double peak_f32(int rounds) { return peak_of<DotF32>(rounds); }
