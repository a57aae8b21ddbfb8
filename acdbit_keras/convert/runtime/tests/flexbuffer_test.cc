// The reader of flexbuffer options: right values from a right map, and no read outside whatever the bytes are.
#include "flexbuffer.h"

#include <gtest/gtest.h>
#include <string.h>

#include <random>
#include <vector>

namespace acdbit {
namespace {

// {"a": -3, "b": 0.5, "c": true, "d": "text", "e": 70000}, values of four bytes, written by hand.
std::vector<uint8_t> map_bytes() {
  std::vector<uint8_t> bytes;
  const auto put = [&bytes](uint32_t value, int width) {
    for (int i = 0; i < width; i++) bytes.push_back(uint8_t(value >> (8 * i)));
  };
  size_t keys[5];
  for (int i = 0; i < 5; i++) {
    keys[i] = bytes.size();
    bytes.push_back(uint8_t('a' + i));
    bytes.push_back(0);
  }
  put(4, 1);
  const size_t text = bytes.size();
  for (char letter : {'t', 'e', 'x', 't', '\0'}) bytes.push_back(uint8_t(letter));
  put(5, 1);  // keys, one byte each
  const size_t key_vector = bytes.size();
  for (size_t key : keys) put(uint32_t(bytes.size() - key), 1);
  put(uint32_t(bytes.size() - key_vector), 4);
  put(1, 4);
  put(5, 4);
  const size_t values = bytes.size();
  float half = 0.5f;
  uint32_t half_bits;
  memcpy(&half_bits, &half, 4);
  put(uint32_t(-3), 4);
  put(half_bits, 4);
  put(1, 4);
  put(uint32_t(bytes.size() - text), 4);
  put(70000, 4);
  for (int type : {1 << 2 | 2, 3 << 2 | 2, 26 << 2 | 2, 5 << 2 | 0, 2 << 2 | 2}) put(uint32_t(type), 1);
  put(uint32_t(bytes.size() - values), 1);
  put(9 << 2 | 2, 1);
  put(1, 1);
  return bytes;
}

struct Answers {
  int64_t integer = 0;
  double real = 0;
  bool flag = false;
  const char* text = nullptr;
  size_t length = 0;
};

TEST(FlexBuffer, ReadsEveryType) {
  const std::vector<uint8_t> bytes = map_bytes();
  FlexMap map;
  ASSERT_TRUE(flex_open(bytes.data(), bytes.size(), &map));
  Answers found;
  ASSERT_EQ(flex_int(map, "a", &found.integer), FlexFound::kFound);
  EXPECT_EQ(found.integer, -3);
  ASSERT_EQ(flex_int(map, "e", &found.integer), FlexFound::kFound);
  EXPECT_EQ(found.integer, 70000);
  ASSERT_EQ(flex_float(map, "b", &found.real), FlexFound::kFound);
  EXPECT_EQ(found.real, 0.5);
  ASSERT_EQ(flex_float(map, "a", &found.real), FlexFound::kFound);
  EXPECT_EQ(found.real, -3.0);
  ASSERT_EQ(flex_bool(map, "c", &found.flag), FlexFound::kFound);
  EXPECT_TRUE(found.flag);
  ASSERT_EQ(flex_string(map, "d", &found.text, &found.length), FlexFound::kFound);
  EXPECT_EQ(std::string(found.text, found.length), "text");
}

TEST(FlexBuffer, TellsMissingFromWrong) {
  const std::vector<uint8_t> bytes = map_bytes();
  FlexMap map;
  ASSERT_TRUE(flex_open(bytes.data(), bytes.size(), &map));
  Answers found;
  EXPECT_EQ(flex_int(map, "f", &found.integer), FlexFound::kMissing);
  EXPECT_EQ(flex_int(map, "", &found.integer), FlexFound::kMissing);
  EXPECT_EQ(flex_int(map, "b", &found.integer), FlexFound::kWrongType);
  EXPECT_EQ(flex_int(map, "d", &found.integer), FlexFound::kWrongType);
  EXPECT_EQ(flex_float(map, "c", &found.real), FlexFound::kWrongType);
  EXPECT_EQ(flex_bool(map, "e", &found.flag), FlexFound::kWrongType);
  EXPECT_EQ(flex_string(map, "a", &found.text, &found.length), FlexFound::kWrongType);
}

TEST(FlexBuffer, EmptyIsAnEmptyMap) {
  FlexMap map;
  ASSERT_TRUE(flex_open(nullptr, 0, &map));
  int64_t value;
  EXPECT_EQ(flex_int(map, "a", &value), FlexFound::kMissing);
}

// Every answer must lie inside the buffer; the buffer has exactly its size, so a sanitizer sees a step outside.
void read_all(const std::vector<uint8_t>& source) {
  std::vector<uint8_t> bytes(source.begin(), source.end());
  bytes.shrink_to_fit();
  FlexMap map;
  if (!flex_open(bytes.data(), bytes.size(), &map)) return;
  for (const char* key : {"a", "b", "c", "d", "e", "text", ""}) {
    Answers found;
    flex_int(map, key, &found.integer);
    flex_float(map, key, &found.real);
    flex_bool(map, key, &found.flag);
    if (flex_string(map, key, &found.text, &found.length) != FlexFound::kFound) continue;
    const uint8_t* start = reinterpret_cast<const uint8_t*>(found.text);
    ASSERT_GE(start, bytes.data());
    ASSERT_LE(start + found.length, bytes.data() + bytes.size());
  }
}

TEST(FlexBuffer, DamagedAndRandomBytesStayInside) {
  std::mt19937 random(1);
  const std::vector<uint8_t> whole = map_bytes();
  for (size_t size = 0; size <= whole.size(); size++) {
    read_all({whole.begin(), whole.begin() + size});
    read_all({whole.end() - size, whole.end()});
  }
  for (int round = 0; round < 200000; round++) {
    std::vector<uint8_t> bytes = whole;
    if (round % 4 == 0) {
      bytes.resize(random() % 40);
      for (uint8_t& byte : bytes) byte = uint8_t(random());
    } else {
      for (uint32_t i = 0; i < 1 + random() % 4; i++) bytes[random() % bytes.size()] = uint8_t(random());
    }
    read_all(bytes);
  }
}

}  // namespace
}  // namespace acdbit
