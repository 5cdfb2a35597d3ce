#include "coordinator/prefix_hash.h"

#include <bit>
#include <cstring>

namespace trireme {
namespace {

class SipHash128 {
 public:
  explicit SipHash128(const HashKey& key)
      : v0_(key[0] ^ 0x736f6d6570736575u),
        v1_(key[1] ^ 0x646f72616e646f6du ^ 0xee),
        v2_(key[0] ^ 0x6c7967656e657261u),
        v3_(key[1] ^ 0x7465646279746573u) {}

  void Word(uint64_t word) {
    v3_ ^= word;
    Round();
    Round();
    v0_ ^= word;
  }

  void Bytes(const void* data, size_t size) {
    const char* bytes = static_cast<const char*>(data);
    for (; size >= 8; bytes += 8, size -= 8) {
      uint64_t word = 0;
      std::memcpy(&word, bytes, 8);
      Word(word);
    }
    rest_ = 0;
    std::memcpy(&rest_, bytes, size);
  }

  // `length` is of the whole message, in bytes.
  BlockHash Finish(uint64_t length) {
    Word(rest_ | length << 56);
    v2_ ^= 0xee;
    for (int i = 0; i < 4; ++i) Round();
    const uint64_t low = v0_ ^ v1_ ^ v2_ ^ v3_;
    v1_ ^= 0xdd;
    for (int i = 0; i < 4; ++i) Round();
    return {.high = v0_ ^ v1_ ^ v2_ ^ v3_, .low = low};
  }

 private:
  void Round() {
    v0_ += v1_;
    v1_ = std::rotl(v1_, 13) ^ v0_;
    v0_ = std::rotl(v0_, 32);
    v2_ += v3_;
    v3_ = std::rotl(v3_, 16) ^ v2_;
    v0_ += v3_;
    v3_ = std::rotl(v3_, 21) ^ v0_;
    v2_ += v1_;
    v1_ = std::rotl(v1_, 17) ^ v2_;
    v2_ = std::rotl(v2_, 32);
  }

  uint64_t v0_, v1_, v2_, v3_;
  uint64_t rest_ = 0;
};

}  // namespace

BlockHash HashNamespace(const HashKey& key, std::string_view name) {
  SipHash128 hash(key);
  hash.Bytes(name.data(), name.size());
  return hash.Finish(name.size());
}

BlockHash HashBlock(const HashKey& key, const BlockHash& parent, std::span<const int32_t> tokens) {
  SipHash128 hash(key);
  hash.Word(parent.low);
  hash.Word(parent.high);
  hash.Bytes(tokens.data(), tokens.size_bytes());
  return hash.Finish(16 + tokens.size_bytes());
}

}  // namespace trireme
