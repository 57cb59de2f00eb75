// Vectors whose memory begins on a cache line, as loads of whole vectors like it.
#pragma once

#include <cstddef>
#include <new>
#include <vector>

#include "runtime/arena.h"

namespace bidiffsr {

template <class T>
struct AlignedAllocator {
  using value_type = T;
  AlignedAllocator() = default;
  template <class U>
  AlignedAllocator(const AlignedAllocator<U>&) {}  // NOLINT: conversion is the point
  T* allocate(std::size_t count) {
    return static_cast<T*>(::operator new(count * sizeof(T), std::align_val_t{kCacheLine}));
  }
  void deallocate(T* memory, std::size_t) {
    ::operator delete(memory, std::align_val_t{kCacheLine});
  }
  bool operator==(const AlignedAllocator&) const { return true; }
};
template <class T>
using Aligned = std::vector<T, AlignedAllocator<T>>;

}  // namespace bidiffsr
