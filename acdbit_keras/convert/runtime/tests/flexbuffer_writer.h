// Writes the options of a custom op: a flexbuffer map from keys to scalars.
#pragma once

#include <stdint.h>
#include <string.h>

#include <map>
#include <string>
#include <vector>

namespace acdbit {

struct FlexOption {
  enum Type : int { kInt = 1, kFloat = 3, kBool = 26 };
  Type type;
  int64_t integer;
  double real;
};

inline FlexOption flex_option(int64_t value) { return {FlexOption::kInt, value, 0.0}; }
inline FlexOption flex_option(bool value) { return {FlexOption::kBool, value, 0.0}; }
inline FlexOption flex_option(double value) { return {FlexOption::kFloat, 0, value}; }

using FlexOptions = std::map<std::string, FlexOption>;

// Values take eight bytes each, offsets to keys four.
inline std::vector<uint8_t> write_flexbuffer(const FlexOptions& options) {
  std::vector<uint8_t> bytes;
  const auto put = [&bytes](uint64_t value, int width) {
    for (int i = 0; i < width; i++) bytes.push_back(static_cast<uint8_t>(value >> (8 * i)));
  };
  std::vector<size_t> keys;
  for (const auto& entry : options) {
    keys.push_back(bytes.size());
    bytes.insert(bytes.end(), entry.first.begin(), entry.first.end());
    bytes.push_back(0);
  }
  put(options.size(), 4);
  const size_t key_vector = bytes.size();
  for (size_t key : keys) put(bytes.size() - key, 4);
  put(bytes.size() - key_vector, 8);
  put(4, 8);
  put(options.size(), 8);
  const size_t values = bytes.size();
  for (const auto& entry : options) {
    uint64_t bits = static_cast<uint64_t>(entry.second.integer);
    if (entry.second.type == FlexOption::kFloat) memcpy(&bits, &entry.second.real, 8);
    put(bits, 8);
  }
  for (const auto& entry : options) put(static_cast<uint64_t>(entry.second.type) << 2 | 3, 1);
  put(bytes.size() - values, 4);
  put(9 << 2 | 3, 1);
  put(4, 1);
  return bytes;
}

}  // namespace acdbit
