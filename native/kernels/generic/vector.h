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

// 2^x to 3 · 10⁻⁶ in few steps: a polynomial of least relative error between -1/2 and 1/2.
template <class I = Isa>
inline Float rough_power_of_two(Float x) {
  const auto of_fraction = [](Float r) {
    Float p = r * 0.0095701f + 0.05591786f;
    p = p * r + 0.24024745f;
    p = p * r + 0.69312181f;
    return p * r + 0.99999926f;
  };
  if constexpr (requires { I::power(x, x); }) {
    const Float n = I::round(x);
    return I::power(of_fraction(x - n), n);
  } else {
    // Added to 1.5 · 2^23, a number is rounded and its integer in the lowest bits.
    constexpr float kShift = 12582912;
    x = minimum(maximum(x, splat(-126.0f)), splat(126.0f));
    const Float shifted = x + kShift;
    const Float p = of_fraction(x - (shifted - kShift));
    const Int bits = (Int)p + ((Int)shifted << 23);
    return (Float)bits;
  }
}

template <class I = Isa>
inline Float rough_reciprocal(Float x) {
  if constexpr (requires { I::estimate_reciprocal(x); })
    return I::estimate_reciprocal(x);
  else
    return 1.0f / x;
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
