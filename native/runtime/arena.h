// Scratch memory of one forward pass, planned once for a size and used again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <map>
#include <new>
#include <utility>

#include "runtime/checked.h"

namespace bidiffsr {

inline constexpr std::size_t kCacheLine = 64;
constexpr std::size_t whole_lines(std::size_t bytes) {
  return (bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
}

// Places blocks first-fit. Without memory it only plans: addresses are made up, and `peak` tells
// how much the same sequence of blocks will need.
class Arena {
 public:
  static constexpr std::size_t kAlignment = kCacheLine;
  // Reads of whole vectors may pass the end of a block by this much.
  static constexpr std::size_t kSlack = 256;

  Arena() = default;
  explicit Arena(std::size_t bytes)
      : size_(bytes),
        memory_(static_cast<std::byte*>(
            ::operator new(bytes ? bytes : 1, std::align_val_t{kAlignment}))) {}
  ~Arena() { ::operator delete(memory_, std::align_val_t{kAlignment}); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  bool planning() const { return memory_ == nullptr; }
  std::size_t peak() const { return peak_; }

  // Throws std::bad_alloc where the memory does not suffice, std::length_error where none would.
  std::byte* allocate(std::size_t bytes) {
    if (bytes > kLargest) throw_too_large();
    bytes = whole_lines(bytes + kSlack);
    std::size_t at = 0;
    for (const auto& [start, length] : blocks_) {
      if (start - at >= bytes) break;
      at = start + length;
    }
    if (at + bytes > kLargest) throw_too_large();
    if (memory_ && at + bytes > size_) throw std::bad_alloc();
    blocks_.emplace(at, bytes);
    if (at + bytes > peak_) peak_ = at + bytes;
    return base() + at;
  }
  void release(const std::byte* block) { blocks_.erase(static_cast<std::size_t>(block - base())); }

 private:
  // Sums of two of these do not wrap around.
  static constexpr std::size_t kLargest = std::numeric_limits<std::ptrdiff_t>::max() / 2;

  // A made-up base is never read or written.
  std::byte* base() const { return memory_ ? memory_ : reinterpret_cast<std::byte*>(kAlignment); }

  std::size_t size_ = 0;
  std::size_t peak_ = 0;
  std::byte* memory_ = nullptr;
  std::map<std::size_t, std::size_t> blocks_;  // offset to length
};

// A block that returns to its arena when it goes out of scope.
template <class T>
class Block {
 public:
  Block() = default;
  Block(Arena& arena, std::size_t count)
      : arena_(&arena), bytes_(arena.allocate(checked_bytes<T>(count))) {}
  ~Block() { reset(); }
  Block(Block&& other) noexcept
      : arena_(std::exchange(other.arena_, nullptr)),
        bytes_(std::exchange(other.bytes_, nullptr)) {}
  Block& operator=(Block&& other) noexcept {
    if (this != &other) {
      reset();
      arena_ = std::exchange(other.arena_, nullptr);
      bytes_ = std::exchange(other.bytes_, nullptr);
    }
    return *this;
  }

  T* get() const { return reinterpret_cast<T*>(bytes_); }
  explicit operator bool() const { return bytes_ != nullptr; }
  void reset() {
    if (arena_) arena_->release(bytes_);
    arena_ = nullptr;
    bytes_ = nullptr;
  }

 private:
  Arena* arena_ = nullptr;
  std::byte* bytes_ = nullptr;
};

}  // namespace bidiffsr
