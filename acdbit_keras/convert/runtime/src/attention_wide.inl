// Heads wider than kNarrowHead: distances are 16-bit, keys stay rows of words. No vision transformer has such heads, so
// these are the same plain loops everywhere; values are packed and counted as for narrow heads.
namespace acdbit {
namespace ACDBIT_ISA {
namespace attention {

static void pack_wide_keys(const uint32_t* rows, ptrdiff_t stride, int keys, int head_dim, uint8_t* packed) {
  const size_t bytes = size_t(head_dim) / 8;
  for (int j = 0; j < keys; j++) memcpy(packed + j * bytes, rows + j * stride, bytes);
}

static Range distances(const uint32_t* query, const uint8_t* packed, int head_dim, int first, int keys, uint16_t* out) {
  const int words = head_dim / 32;
  packed += size_t(first) * words * 4;
  int lowest = head_dim;
  int highest = 0;
  for (int j = 0; j < keys; j++) {
    int distance = 0;
    for (int w = 0; w < words; w++, packed += 4) distance += popcount32(query[w] ^ load_word(packed));
    out[j] = uint16_t(distance);
    lowest = distance < lowest ? distance : lowest;
    highest = distance > highest ? distance : highest;
  }
  for (int j = keys; j % 32 != 0; j++) out[j] = 65535;
  return {lowest, highest};
}

static uint64_t table_sum(const uint16_t* distances, int keys, Range range, const AttentionTable& table) {
  uint64_t sum = 0;
  for (int j = 0; j < keys; j++) sum += table.values[distances[j] - range.lowest];
  return sum;
}

static int keep(const uint16_t* distances, int keys, int limit, uint32_t* words) {
  int count = 0;
  for (int j = 0; j < keys; j += 32) {
    uint32_t word = 0;
    for (int i = 0; i < 32; i++) word |= uint32_t(distances[j + i] < limit) << i;
    words[j / 32] = word;
    count += popcount32(word);
  }
  return count;
}

static F16 load_distances(const uint16_t* distances) {
  int32_t lanes[16];
  for (int i = 0; i < 16; i++) lanes[i] = distances[i];
  return convert(lanes);
}

static F16 weigh(const uint16_t* distances, int keys, Range range, const AttentionFactors& factors,
                 const float* key_factor, float* weights, F16 sum) {
  return weigh_with(PlainLookup{factors.values, range.highest}, distances, keys, key_factor, weights, sum);
}

}  // namespace attention
}  // namespace ACDBIT_ISA
}  // namespace acdbit
