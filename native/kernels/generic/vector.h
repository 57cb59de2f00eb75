// Vectors of floats and of integers: loads, stores, and the functions of one value that layers
// need.

using Float = Isa::Float;
using Int = Isa::Int;
constexpr int kLanes = Isa::kLanes;
constexpr int kVectors = kPanel / kLanes;

inline Float load(const float* x) {
  Float value;
  __builtin_memcpy(&value, x, sizeof value);
  return value;
}
inline void store(float* x, Float value) { __builtin_memcpy(x, &value, sizeof value); }
inline Int load(const std::int32_t* x) {
  Int value;
  __builtin_memcpy(&value, x, sizeof value);
  return value;
}
// x - 0 is x, so this is a load; 0 + x is not where x is -0, and would be an addition as well.
inline Float splat(float x) { return x - Float{}; }
inline Float to_float(Int x) { return __builtin_convertvector(x, Float); }
inline Float maximum(Float a, Float b) { return a > b ? a : b; }
inline Float minimum(Float a, Float b) { return a < b ? a : b; }

// e^x to about 1 ulp: x = n ln 2 + r with |r| <= ln 2 / 2, and for e^r a polynomial of least
// relative error there, 1 + r + r² q(r).
template <class I = Isa>
inline Float exponential(Float x) {
  constexpr bool kScales = requires { I::power(x, x); };
  // e^88 is finite; far below, n would be too coarse for r to be small.
  x = minimum(maximum(x, splat(kScales ? -104.0f : -87.0f)), splat(88.0f));
  const Float n = Isa::round(x * 1.44269504f);
  Float r = x - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Float q = splat(1.38146e-3f);
  q = q * r + 8.3687166e-3f;
  q = q * r + 4.16683890e-2f;
  q = q * r + 1.66665211e-1f;
  q = q * r + 4.99999940e-1f;
  const Float p = (q * (r * r) + r) + 1.0f;
  if constexpr (kScales) {
    return I::power(p, n);  // p · 2^n
  } else {
    const Int exponent = (__builtin_convertvector(n, Int) + 127) << 23;
    Float power;
    __builtin_memcpy(&power, &exponent, sizeof power);
    return p * power;
  }
}

template <class I = Isa>
inline Float reciprocal(Float x) {
  if constexpr (requires { I::estimate_reciprocal(x); }) {
    const Float y = I::estimate_reciprocal(x);
    return y + y * (1.0f - x * y);  // Newton's step doubles the 14 bits
  } else {
    return 1.0f / x;
  }
}
