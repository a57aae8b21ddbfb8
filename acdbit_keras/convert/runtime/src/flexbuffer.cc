#include "flexbuffer.h"

#include <string.h>

namespace acdbit {
namespace {

// The upper six bits of a type byte; the lower two are the logarithm of the width of what an offset leads to.
enum Type {
  kInt = 1,
  kUint = 2,
  kFloat = 3,
  kString = 5,
  kIndirectInt = 6,
  kIndirectUint = 7,
  kIndirectFloat = 8,
  kMap = 9,
  kBool = 26
};

bool inside(const FlexMap& map, size_t offset, size_t bytes) {
  return offset <= map.size && bytes <= map.size - offset;
}

// The caller has checked that the bytes are there.
uint64_t read_uint(const uint8_t* p, int width) {
  uint64_t value = 0;
  for (int i = width - 1; i >= 0; i--) value = value << 8 | p[i];
  return value;
}

int64_t read_int(const uint8_t* p, int width) {
  const int unused = 64 - 8 * width;
  return static_cast<int64_t>(read_uint(p, width) << unused) >> unused;
}

// Half precision is what a one- or two-byte float would be; no writer makes them for a scalar.
bool read_float(const uint8_t* p, int width, double* value) {
  if (width == 4) {
    float single;
    memcpy(&single, p, 4);
    *value = single;
    return true;
  }
  if (width == 8) memcpy(value, p, 8);
  return width == 8;
}

// Follows the backward offset stored at `at`.
bool follow(const FlexMap& map, size_t at, int width, size_t* target) {
  if (!inside(map, at, width)) return false;
  const uint64_t distance = read_uint(map.data + at, width);
  if (distance == 0 || distance > at) return false;
  *target = at - distance;
  return true;
}

// One value: where its bytes are, how many, and its type.
struct Value {
  const uint8_t* bytes;
  int width;
  int type;
};

FlexFound find(const FlexMap& map, const char* key, Value* value) {
  const size_t length = strlen(key) + 1;
  for (size_t i = 0; i < map.count; i++) {
    size_t name;
    if (!follow(map, map.keys + i * map.key_width, map.key_width, &name)) return FlexFound::kWrongType;
    if (!inside(map, name, length) || memcmp(map.data + name, key, length) != 0) continue;
    const uint8_t packed = map.data[map.values + map.count * map.value_width + i];
    size_t at = map.values + i * map.value_width;
    value->type = packed >> 2;
    value->width = map.value_width;
    if (value->type == kString || (value->type >= kIndirectInt && value->type <= kIndirectFloat)) {
      if (!follow(map, at, map.value_width, &at)) return FlexFound::kWrongType;
      value->width = 1 << (packed & 3);
      if (!inside(map, at, value->width)) return FlexFound::kWrongType;
    }
    value->bytes = map.data + at;
    return FlexFound::kFound;
  }
  return FlexFound::kMissing;
}

}  // namespace

bool flex_open(const void* data, size_t size, FlexMap* map) {
  *map = {};
  map->data = static_cast<const uint8_t*>(data);
  map->size = size;
  if (size == 0) return true;
  if (data == nullptr || size < 3) return false;
  // The buffer ends with the root value, its type byte and its width.
  const uint8_t root_width = map->data[size - 1];
  const uint8_t root_type = map->data[size - 2];
  if (root_width != 1 && root_width != 2 && root_width != 4 && root_width != 8) return false;
  if (root_type >> 2 != kMap || size < 2u + root_width) return false;
  if (!follow(*map, size - 2 - root_width, root_width, &map->values)) return false;
  // Before the values stand the offset of the keys, the width of the keys and the number of values.
  map->value_width = 1 << (root_type & 3);
  const size_t width = map->value_width;
  if (map->values < 3 * width) return false;
  map->count = read_uint(map->data + map->values - width, map->value_width);
  if (map->count > (size - map->values) / (width + 1)) return false;
  const uint64_t key_width = read_uint(map->data + map->values - 2 * width, map->value_width);
  if (key_width != 1 && key_width != 2 && key_width != 4 && key_width != 8) return false;
  map->key_width = static_cast<int>(key_width);
  if (!follow(*map, map->values - 3 * width, map->value_width, &map->keys)) return false;
  return map->keys >= key_width && map->count <= (size - map->keys) / key_width &&
         read_uint(map->data + map->keys - key_width, map->key_width) == map->count;
}

FlexFound flex_int(const FlexMap& map, const char* key, int64_t* result) {
  Value value;
  const FlexFound found = find(map, key, &value);
  if (found != FlexFound::kFound) return found;
  if (value.type == kInt || value.type == kIndirectInt) {
    *result = read_int(value.bytes, value.width);
  } else if (value.type == kUint || value.type == kIndirectUint || value.type == kBool) {
    const uint64_t bits = read_uint(value.bytes, value.width);
    if (bits > INT64_MAX) return FlexFound::kWrongType;
    *result = static_cast<int64_t>(bits);
  } else {
    return FlexFound::kWrongType;
  }
  return FlexFound::kFound;
}

FlexFound flex_float(const FlexMap& map, const char* key, double* result) {
  Value value;
  const FlexFound found = find(map, key, &value);
  if (found != FlexFound::kFound) return found;
  if (value.type == kFloat || value.type == kIndirectFloat)
    return read_float(value.bytes, value.width, result) ? FlexFound::kFound : FlexFound::kWrongType;
  int64_t integer;
  if (value.type == kBool || flex_int(map, key, &integer) != FlexFound::kFound) return FlexFound::kWrongType;
  *result = static_cast<double>(integer);
  return FlexFound::kFound;
}

FlexFound flex_bool(const FlexMap& map, const char* key, bool* result) {
  int64_t integer;
  const FlexFound found = flex_int(map, key, &integer);
  if (found != FlexFound::kFound) return found;
  if (integer != 0 && integer != 1) return FlexFound::kWrongType;
  *result = integer == 1;
  return FlexFound::kFound;
}

FlexFound flex_string(const FlexMap& map, const char* key, const char** result, size_t* length) {
  Value value;
  const FlexFound found = find(map, key, &value);
  if (found != FlexFound::kFound) return found;
  if (value.type != kString) return FlexFound::kWrongType;
  // The length stands before the characters, in the width of the string.
  const size_t at = static_cast<size_t>(value.bytes - map.data);
  if (at < static_cast<size_t>(value.width)) return FlexFound::kWrongType;
  const uint64_t size = read_uint(value.bytes - value.width, value.width);
  if (!inside(map, at, size)) return FlexFound::kWrongType;
  *result = reinterpret_cast<const char*>(value.bytes);
  *length = size;
  return FlexFound::kFound;
}

}  // namespace acdbit
