// Reading the options of a custom op: a flexbuffer map from keys to scalars and strings.
//
// The bytes come from a file nobody vouches for. Every offset is checked against the buffer before it is followed, and
// nothing is allocated. Nested maps and vectors are values of a wrong type here: no op has any.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace acdbit {

struct FlexMap {
  const uint8_t* data;
  size_t size;    // of the whole buffer
  size_t values;  // offset of the first value
  size_t keys;    // offset of the first key's offset
  size_t count;
  int value_width;  // bytes of each value
  int key_width;
};

enum class FlexFound { kFound, kMissing, kWrongType };

// False if the buffer does not hold a map whose keys, values and types lie inside it. An empty buffer is an empty map.
bool flex_open(const void* data, size_t size, FlexMap* map);

// Values of `key`. Integers and bools answer each other (LCE writes bools as integers, MLIR as bools), and an integer
// is a float; a float is not an integer.
FlexFound flex_int(const FlexMap& map, const char* key, int64_t* value);
FlexFound flex_float(const FlexMap& map, const char* key, double* value);
FlexFound flex_bool(const FlexMap& map, const char* key, bool* value);
// Points into the buffer; not terminated.
FlexFound flex_string(const FlexMap& map, const char* key, const char** value, size_t* length);

}  // namespace acdbit
